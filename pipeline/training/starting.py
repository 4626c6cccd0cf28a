"""Where a training begins that does not begin fresh: at weights, or at another's checkpoint."""

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.results import read_result, stage_places
from pipeline.training import reading_record
from pipeline.training.config import Branch, WarmStart


def weights_of(start: WarmStart, stage: str) -> tuple[str, str]:
    """Address and SHA-256 of the weights that a training of a stage begins with.

    Args:
        start: Names a weights file, or the output folder of a run that has such a stage.
        stage: Name of the stage, such as ``decoder``.

    Raises:
        ConfigError: There is no such file, no such run, or no such stage in it.
    """
    if start.path.endswith(".safetensors"):
        uri = storage.absolute(start.path)
        if not storage.exists(uri):
            raise ConfigError(f"{stage}.warm_start.path={start.path}: no such file")
        return uri, storage.sha256_of(uri)
    places = stage_places(storage.absolute(start.path))
    result = read_result(places[stage]) if stage in places else None
    if result is None:
        raise ConfigError(
            f"{stage}.warm_start.path={start.path}: that run has {', '.join(places)}, no finished "
            f"stage {stage}; name another, or a .safetensors file of ours"
        )
    weights = result.content["weights"]
    return storage.join(result.uri, weights["name"]), weights["sha256"]


def checkpoint_of(branch: Branch, uri: str, batch: int) -> str:
    """Address of the checkpoint that a branch leaves from.

    Args:
        branch: Names the training and the moment.
        uri: Folder of the branch itself, beside that of the other training; its record of what it
            reads is there.
        batch: Samples of a step.

    Raises:
        ConfigError: That training read other samples, or has no such checkpoint, or no longer.
    """
    from pipeline import checkpoints

    other = storage.join(uri.rstrip("/").rsplit("/", 1)[0], branch.of, "checkpoints")
    differ = reading_record.differences(uri, other.removesuffix("/checkpoints"))
    if differ:
        raise ConfigError(
            f"branch.of={branch.of}: that training read other samples ({', '.join(differ)} differ: "
            "a removal, another selection, another batch or a branch of its own); begin anew, or "
            "branch from one that reads what this one would"
        )
    found = {checkpoints.samples_seen(place): place for place in checkpoints.completed(other)}
    if branch.from_samples not in found:
        known = ", ".join(f"{n} (step {n // batch})" for n in found) or "none"
        raise ConfigError(
            f"branch.from_samples={branch.from_samples}: complete checkpoints in {other} are at "
            f"{known} samples; take one of them, and keep more with execution.keep_checkpoints"
        )
    return found[branch.from_samples]
