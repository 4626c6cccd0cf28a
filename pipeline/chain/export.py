"""A finished run's models in the form of other programs."""

from typing import Any, Literal

from pipeline import results
from pipeline.errors import ConfigError
from pipeline.progress import Progress
from pipeline.run_file import RunFile

Form = Literal["diffusers", "open_clip"]


def export_run(
    run: RunFile,
    output: str,
    form: Form,
    diffusers: str,
    progress: Progress,
    *,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Write a run's models, or check that they can be written.

    Args:
        run: The run file; its folder's index names the stages.
        output: Local folder that does not exist yet.
        form: ``diffusers``: the stack for its pipelines; ``open_clip``: the CLIP alone.
        diffusers: Version of diffusers whose ``from_pretrained`` shall load the folder.
        progress: Where to tell people what the other program does otherwise.
        dry_run: Write nothing.

    Raises:
        ConfigError: A stage is not finished, the folder exists, or a field cannot be expressed.
        CheckpointError: Weights are damaged or do not belong together.
    """
    if form == "open_clip":
        line = _export_clip(run, output, dry_run=dry_run)
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
