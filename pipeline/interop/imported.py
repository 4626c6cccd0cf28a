"""Models of others as stages of a run: each leaves what a training would have left behind."""

import time
from collections.abc import Callable
from pathlib import Path

from pipeline import storage, weights_file
from pipeline.errors import CheckpointError, ConfigError
from pipeline.interop import karlo
from pipeline.interop.config import ImportedConfig
from pipeline.interop.diffusers import read as diffusers
from pipeline.interop.foreign_weights import Imported
from pipeline.models.config import ClipConfig, ClipShape
from pipeline.models.presets import clip_shape
from pipeline.results import Result, StageOutput

WEIGHTS = "weights.safetensors"


def import_stage(
    config: ImportedConfig,
    model: str,
    clip: Result | None,
    uri: str,
    check: Callable[[ClipConfig], None],
) -> StageOutput:
    """One stage of a run that brings its own model.

    Args:
        config: Whose format, and where the files lie.
        model: Name of the stage.
        clip: The run's CLIP, on which a prior or a decoder shall stand.
        uri: Folder of the stage.
        check: Raises ValueError where the run's other models expect another CLIP.

    Raises:
        ConfigError: A setting is beyond our models, or not what the run expects.
        CheckpointError: Weights do not fit; names the keys.
    """
    started = time.time()
    read = karlo.read if config.format == "karlo" else diffusers.read
    found = read(Path(config.path), model)
    if model == "clip":
        try:
            check(ClipConfig.model_validate(found.task["model"]))
        except ValueError as error:
            raise ConfigError(f"imported.models: clip: {error}") from error
    inputs = {} if clip is None else {"clip": clip.manifest_hash}
    if clip is not None:
        _check_shape(found, clip, f"{config.path}: {model}")
    weights_uri = storage.join(uri, WEIGHTS)
    settings = {"task": found.task, "inputs": inputs}
    weights_file.export_weights(weights_uri, found.state, settings, found.task["type"])
    entry = {
        "name": WEIGHTS,
        "sha256": storage.sha256_of(weights_uri),
        "num_bytes": storage.size_of(weights_uri),
    }
    content = {"weights": entry, "format": config.format, "left_out": list(found.left_out)}
    return StageOutput(content, [(started, time.time())])


def _check_shape(found: Imported, clip: Result, source: str) -> None:
    """Before weights are written, for no later stage could use them."""
    settings = weights_file.read_config(storage.join(clip.uri, clip.content["weights"]["name"]))
    real = clip_shape(ClipConfig.model_validate(settings["task"]["model"]))
    stated = ClipShape.model_validate(found.task["model"]["clip"])
    if stated != real:
        raise CheckpointError(f"{source} expects a CLIP of {stated!r}, this run's is {real!r}")
