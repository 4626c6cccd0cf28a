"""Where the weights lie that a training begins with; imports no torch."""

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.results import read_result, stage_places
from pipeline.training.config import WarmStart


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
