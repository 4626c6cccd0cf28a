"""Pictures beside a run: from prompts of a command line, from a registered model, or both."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import lease, results, storage
from pipeline.chain import given
from pipeline.chain.export import models_uri
from pipeline.chain.oracle import held_out
from pipeline.errors import ConfigError
from pipeline.generation.config import Ablations, GenerateConfig, InlinePrompts, Sampling
from pipeline.identity import stage_identity
from pipeline.progress import Progress
from pipeline.results import Result
from pipeline.run_file import RunFile

STAGE, RESULT_VERSION = "generate", 1
MODELS = ("clip", "prior", "decoder")


def generate_apart(
    run: RunFile,
    model: str | None,
    texts: Sequence[str],
    output: str,
    progress: Progress,
    *,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Make the run file's pictures in a folder of their own; the same call goes on or is done.

    Args:
        run: The run file; its section ``generate`` says how, in the place of a missing one the
            models' own settings do. Ablations are left out.
        model: Whose models (``models_uri``).
        texts: Prompts in the place of the section's, one picture each; also written as PNG files.
        output: The folder; several results may lie in one.
        progress: Where to tell people how far it is.
        dry_run: Check all, write nothing.

    Raises:
        ConfigError: A prompt or a setting is refused, or a model is missing.
        CheckpointError: The models do not belong together.
        BusyError: Another call works in the folder.
    """
    from pipeline.generation.prompts import check, resolve
    from pipeline.generation.run_stages import RunStages, read_sampling
    from pipeline.generation.weights import check_stack

    if texts:
        check(texts)
    uri, output = models_uri(run, model), storage.absolute(output)
    stages = RunStages.read(uri)
    check_stack(stages)
    config = _config(run, read_sampling(uri), texts)
    if len(config.upsamplers) > len(stages.upsamplers):
        raise ConfigError(
            f"generate.upsamplers has {len(config.upsamplers)} entries, {uri} has "
            f"{len(stages.upsamplers)} upsamplers; give at most one entry for each"
        )
    prompts = held_out(config, run)
    resolve(config.prompts, prompts)
    inputs = _models(uri)
    hashes = {name: found.manifest_hash for name, found in inputs.items()}
    hashes |= given.of_generation(config)
    identity = stage_identity(STAGE, RESULT_VERSION, config, hashes)
    place = results.place(output, STAGE, identity)
    line = {"output": output, "shards": place, "num_pictures": config.num_pictures}
    if dry_run:
        return line
    result = results.read_result(place)
    with lease.hold(output):
        if result is None:
            result = _generated(run, config, inputs, prompts, place, identity, progress)
        _write_index(output, config, place)
        if texts:
            line["pictures"] = _written(result, Path(f"{output}/pictures-{identity[:12]}"))
    return {**line, **result.content.get("safety", {})}


def _config(run: RunFile, own: Sampling, texts: Sequence[str]) -> GenerateConfig:
    changes: dict[str, Any] = {"ablations": Ablations(num_pictures=0)}
    if texts:
        changes |= {"prompts": InlinePrompts(texts=tuple(texts)), "num_pictures": len(texts)}
    if run.generate is not None:
        return run.generate.model_copy(update=changes)
    if not texts:
        raise ConfigError("the run file has no section generate; give prompts with --prompt")
    return GenerateConfig(**dict(own), **changes, seed=0)


def _models(uri: str) -> dict[str, Result]:
    found = {}
    for name, place in results.stage_places(uri).items():
        result = results.read_result(place)
        if result is not None and (name in MODELS or name.startswith("upsampler_")):
            found[name] = result
    return found


def _generated(
    run: RunFile,
    config: GenerateConfig,
    inputs: dict[str, Result],
    prompts: Any,  # noqa: ANN401 - prompts of a module that imports a tokenizer
    place: str,
    identity: str,
    progress: Progress,
) -> Result:
    from pipeline.config import semantic
    from pipeline.generation.batch import generate
    from pipeline.runtime import ray_session

    with ray_session(run.execution.ray):
        made = generate(config, inputs, prompts, place, progress)
    return results.publish_result(
        place,
        stage=STAGE,
        identity=identity,
        config=semantic(config),
        inputs={name: found.manifest_hash for name, found in inputs.items()},
        content=made.content,
        circumstance={"work": made.work},
    )


def _write_index(output: str, config: GenerateConfig, place: str) -> None:
    """So that other jobs find the latest pictures of the folder."""
    index = storage.join(output, results.INDEX)
    stages = {STAGE: place.removeprefix(f"{output.rstrip('/')}/")}
    storage.write_json(index, {"config": {STAGE: config.model_dump(mode="json")}, "stages": stages})


def _written(result: Result, folder: Path) -> list[str]:
    """The final pictures as files."""
    from pipeline.evaluation.generated import FINAL, read_generated

    paths = []
    for entry in result.content["shards"]:
        for found in read_generated(result, entry):
            if found.kind == FINAL:
                path = folder / f"{found.index:05d}.png"
                storage.write_bytes(str(path), found.png)
                paths.append(str(path))
    return paths
