"""A finished run's models in the form of other programs."""

from typing import Any, Literal

from pipeline import results, storage
from pipeline.errors import ConfigError
from pipeline.progress import Progress
from pipeline.run_file import RunFile

REGISTERED = "registered"
"""Folder, in a run's output folder, of copies of registered models."""
Form = Literal["diffusers", "open_clip", "mlflow"]


def export_run(
    run: RunFile,
    output: str,
    form: Form,
    diffusers: str,
    progress: Progress,
    *,
    name: str | None = None,
    alias: str | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Write a run's models, or check that they can be written.

    Args:
        run: The run file; its folder's index names the stages.
        output: Local folder that does not exist yet.
        form: ``diffusers``: the stack for its pipelines; ``open_clip``: the CLIP alone;
            ``mlflow``: the stack as a pyfunc model.
        diffusers: Version of diffusers whose ``from_pretrained`` shall load the folder.
        progress: Where to tell people what the other program does otherwise.
        name: Registers an MLflow model in the run's MLflow, as the next version of this name.
        alias: Of that version.
        dry_run: Write nothing.

    Raises:
        ConfigError: A stage is not finished, the folder exists, or a field cannot be expressed.
        CheckpointError: Weights are damaged or do not belong together.
    """
    if form != "mlflow" and name is not None:
        raise ConfigError(f"--register {name}: MLflow takes models of --format mlflow alone")
    if alias is not None and name is None:
        raise ConfigError(f"--alias {alias}: of which model? Add --register NAME")
    if form == "open_clip":
        line = _export_clip(run, output, dry_run=dry_run)
    elif form == "mlflow":
        line = _export_mlflow(run, output, name, alias, dry_run=dry_run)
    else:
        line = _export_stack(run, output, diffusers, dry_run=dry_run)
    for difference in line.get("differences", ()):
        progress.say(f"differs: {difference}")
    return {"output": output, "format": form, **line}


def _export_clip(run: RunFile, output: str, *, dry_run: bool) -> dict[str, Any]:
    from pipeline.generation.weights import read_published
    from pipeline.interop import open_clip_folder
    from pipeline.interop.new_folder import check_new

    places = results.stage_places(run.output_dir)
    if "clip" not in places:
        raise ConfigError(f"{run.output_dir} has no finished clip: run python -m jobs.run first")
    check_new(output)
    clip = read_published(places["clip"], "clip")
    return {} if dry_run else open_clip_folder.export(clip, output)


def _export_stack(run: RunFile, output: str, diffusers: str, *, dry_run: bool) -> dict[str, Any]:
    from pipeline.generation.run_stages import RunStages, read_sampling
    from pipeline.generation.weights import read_stack
    from pipeline.interop.diffusers.limits import differences
    from pipeline.interop.diffusers.write import check, export

    files, sampling = read_stack(RunStages.read(run.output_dir)), read_sampling(run.output_dir)
    if dry_run:
        return {"differences": differences(check(files, output, diffusers), sampling)}
    return export(files, sampling, output, diffusers)


def _export_mlflow(
    run: RunFile, output: str, name: str | None, alias: str | None, *, dry_run: bool
) -> dict[str, Any]:
    from pipeline.generation.run_stages import RunStages
    from pipeline.generation.weights import check_stack
    from pipeline.interop.new_folder import check_new
    from pipeline.tracking import parent_run
    from pipeline.tracking_store import store_uri

    check_stack(RunStages.read(run.output_dir))
    check_new(output)
    store, run_id = store_uri(run.execution.tracking, run.output_dir), parent_run(run.output_dir)
    if name is not None and run_id is None:
        raise ConfigError(
            f"--register {name}: {run.output_dir} has no run in MLflow to keep the model with; "
            "run python -m jobs.run first"
        )
    if dry_run:
        return {}
    from pipeline.interop import mlflow_model, mlflow_registry

    mlflow_model.save(run.output_dir, output)
    if name is None or run_id is None:
        return {}
    made = mlflow_registry.register(output, store, run_id, name, alias)
    found = {"registered": f"models:/{made.name}/{made.version}", "store": store}
    return found if alias is None else {**found, "alias": f"models:/{made.name}@{alias}"}


def models_uri(run: RunFile, model: str | None) -> str:
    """The run folder whose models are meant.

    Args:
        run: The run file.
        model: Output folder of a run, or ``models:/name@alias`` in this run's MLflow, which is
            copied into the output folder first; None: this run's own.

    Raises:
        ConfigError: There is no such model.
    """
    if model is None or not model.startswith("models:"):
        return model or run.output_dir
    from pipeline.interop.mlflow_registry import fetched
    from pipeline.tracking_store import store_uri

    store = store_uri(run.execution.tracking, run.output_dir)
    folder = storage.local_path(storage.join(run.output_dir, REGISTERED))
    return fetched(model, store, str(folder))
