"""open_clip's CLIPs into our ``ClipModel``; the only importer of open_clip.

Names of parameters are equal on both sides, so the bridge is the configuration: what our model
cannot express is refused with the keys that say so. Importing open_clip costs about ten seconds.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import open_clip

from pipeline import storage, weights_file
from pipeline.errors import CheckpointError, ConfigError
from pipeline.interop.open_clip_folder import CONVNEXT_SIZES, convnext_norm_eps
from pipeline.models.clip import ClipModel
from pipeline.models.config import (
    ClipConfig,
    ConvNextTowerConfig,
    OpenClipConfig,
    TextTowerConfig,
    VisionTowerConfig,
)
from pipeline.results import StageOutput

WEIGHTS = "weights.safetensors"
_VISION = {"image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size"}
_CONVNEXT = {"image_size", "timm_model_name", "timm_proj", "timm_drop_path"}
_TEXT = {"context_length", "vocab_size", "layers", "width", "heads", "mlp_ratio"}
_TOP = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}


def clip_config(name: str) -> ClipConfig:
    """Our configuration of one of open_clip's architectures.

    Args:
        name: As open_clip lists it, such as ``ViT-B-32`` or ``ViT-L-14-quickgelu`` (which
            OpenAI's weights need).

    Raises:
        ConfigError: Unknown name, or settings that our model cannot express.
    """
    found = open_clip.get_model_config(name)
    if found is None:
        raise ConfigError(f"open_clip knows no model {name!r}; see open_clip.list_models()")
    vision, text = found["vision_cfg"], found["text_cfg"]
    is_convnext = vision.get("timm_model_name") in CONVNEXT_SIZES
    known = _CONVNEXT if is_convnext else _VISION
    extra = _beyond(found, _TOP) + _beyond(vision, known) + _beyond(text, _TEXT)
    if extra or not (is_convnext or isinstance(vision.get("layers"), int)):
        raise ConfigError(
            f"{name} is no plain vision-transformer or ConvNeXt CLIP; beyond our model: "
            f"{', '.join(extra) or 'layers per stage'}"
        )
    return ClipConfig(
        embed_dim=found["embed_dim"],
        vision=_convnext(vision) if is_convnext else _transformer(vision),
        text=TextTowerConfig(
            width=text.get("width", 512),
            layers=text.get("layers", 12),
            heads=text.get("heads", 8),
            mlp_ratio=text.get("mlp_ratio", 4.0),
            context_length=text.get("context_length", 77),
            vocab_size=text.get("vocab_size", 49408),
        ),
        quick_gelu=bool(found.get("quick_gelu", False)),
    )


def _transformer(vision: Mapping[str, Any]) -> VisionTowerConfig:
    width = vision.get("width", 768)
    return VisionTowerConfig(
        image_px=vision.get("image_size", 224),
        patch_px=vision.get("patch_size", 16),
        width=width,
        layers=vision["layers"],
        heads=width // vision.get("head_width", 64),
        mlp_ratio=vision.get("mlp_ratio", 4.0),
    )


def _convnext(vision: Mapping[str, Any]) -> ConvNextTowerConfig:
    name = vision["timm_model_name"]
    widths, depths = CONVNEXT_SIZES[name]
    return ConvNextTowerConfig(
        type="convnext",
        image_px=vision.get("image_size", 224),
        widths=widths,
        depths=depths,
        head=vision.get("timm_proj", "linear"),
        norm_eps=convnext_norm_eps(name),
    )


def _beyond(section: Mapping[str, Any], known: set[str]) -> list[str]:
    """Settings that are on and that our model does not have."""
    return sorted(key for key, value in section.items() if key not in known and value)


def load_open_clip(name: str, weights_path: str | Path) -> ClipModel:
    """A model with open_clip's weights.

    Args:
        name: Architecture, as for ``clip_config``.
        weights_path: A local checkpoint in any form that open_clip reads.

    Raises:
        ConfigError: The architecture cannot be expressed, or the file is missing.
        CheckpointError: Weights and architecture differ; names the keys.
    """
    config = clip_config(name)
    if not Path(weights_path).is_file():
        raise ConfigError(f"{weights_path}: no such weights file")
    try:
        state = open_clip.create_model(name, pretrained=str(weights_path)).state_dict()
    except (RuntimeError, AssertionError) as error:
        raise CheckpointError(f"{weights_path} does not fit {name}: {error}") from error
    model = ClipModel(config)
    weights_file.load_state(model, state, str(weights_path))
    return model


def import_open_clip(name: str, weights_path: str | Path, uri: str) -> ClipConfig:
    """Write open_clip's weights as our training would leave them, for the embed stage and later.

    Args:
        name: Architecture.
        weights_path: A local checkpoint.
        uri: Destination safetensors file.
    """
    model = load_open_clip(name, weights_path)
    task = {"type": "clip", "model": model.config.model_dump(mode="json")}
    weights_file.export_weights(uri, model.state_dict(), {"task": task, "inputs": {}}, "clip")
    return model.config


def import_stage(
    config: OpenClipConfig, uri: str, check: Callable[[ClipConfig], None]
) -> StageOutput:
    """The stage ``clip`` of a run that brings its own: weights as our training would leave them.

    Args:
        config: Architecture and weights file.
        uri: Folder of the stage.
        check: Raises ValueError where the run's other models expect another CLIP.

    Raises:
        ConfigError: The architecture cannot be expressed, or is not what the run expects.
        CheckpointError: Weights and architecture differ.
    """
    started = time.time()
    try:
        check(clip_config(config.model))
    except ValueError as error:
        raise ConfigError(f"open_clip.model={config.model}: {error}") from error
    weights_uri = storage.join(uri, WEIGHTS)
    import_open_clip(config.model, storage.local_path(config.weights_path), weights_uri)
    entry = {
        "name": WEIGHTS,
        "sha256": storage.sha256_of(weights_uri),
        "num_bytes": storage.size_of(weights_uri),
    }
    return StageOutput({"weights": entry, "architecture": config.model}, [(started, time.time())])
