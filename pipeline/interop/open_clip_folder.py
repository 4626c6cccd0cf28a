"""A CLIP as a folder that open_clip opens: ``create_model("local-dir:<folder>")``.

Names of parameters are open_clip's own, so weights are written as they are, temperature included.
Nothing here imports open_clip.
"""

from typing import Any

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.generation.weights import Published
from pipeline.interop.new_folder import new_folder
from pipeline.interop.pairs import meta_state
from pipeline.models.clip import MEAN, STD
from pipeline.models.config import (
    ClipConfig,
    ConvNextTowerConfig,
    TowerConfig,
    VisionTowerConfig,
)
from pipeline.models.presets import build_clip
from pipeline.weights_file import check_state, write_safetensors

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
CONVNEXT_SIZES = {
    "convnext_tiny": ((96, 192, 384, 768), (3, 3, 9, 3)),
    "convnext_small": ((96, 192, 384, 768), (3, 3, 27, 3)),
    "convnext_base": ((128, 256, 512, 1024), (3, 3, 27, 3)),
    "convnext_large": ((192, 384, 768, 1536), (3, 3, 27, 3)),
    "convnext_xlarge": ((256, 512, 1024, 2048), (3, 3, 27, 3)),
    "convnext_xxlarge": ((384, 768, 1536, 3072), (3, 4, 30, 3)),
}
"""Widths and depths of the ConvNeXt that timm has under a name (Liu et al. 2022 §3; the largest is
LAION's)."""


def export(found: Published, output: str) -> dict[str, Any]:
    """Write the folder.

    Args:
        found: A trained or imported CLIP.
        output: Local folder that does not exist yet.

    Returns:
        ``models``: the weights' fingerprint.

    Raises:
        ConfigError: The folder exists, or open_clip has no name for the image encoder.
        CheckpointError: Weights do not fit their own configuration.
    """
    config = found.model(ClipConfig)
    settings = {
        "model_cfg": model_config(config),
        "preprocess_cfg": {"mean": list(MEAN), "std": list(STD)},
    }
    check_state(meta_state(lambda: build_clip(config)), found.state, found.uri)
    with new_folder(output) as folder:
        write_safetensors(str(folder / WEIGHTS), found.state, {"format": "pt"})
        storage.write_json(str(folder / CONFIG), settings)
    return {"models": {"clip": found.sha256}}


def model_config(config: ClipConfig) -> dict[str, Any]:
    """Our configuration in open_clip's words.

    Raises:
        ConfigError: open_clip has no name for the image encoder.
    """
    text = config.text
    return {
        "embed_dim": config.embed_dim,
        "vision_cfg": _vision_config(config.vision),
        "text_cfg": {
            "context_length": text.context_length,
            "vocab_size": text.vocab_size,
            "layers": text.layers,
            "width": text.width,
            "heads": text.heads,
            "mlp_ratio": text.mlp_ratio,
        },
        "quick_gelu": config.quick_gelu,
    }


def convnext_norm_eps(name: str) -> float:
    """What timm adds to the variance in the layer norms of a ConvNeXt."""
    return 1e-5 if name == "convnext_xxlarge" else 1e-6


def _vision_config(vision: TowerConfig) -> dict[str, Any]:
    if isinstance(vision, VisionTowerConfig):
        return {
            "image_size": vision.image_px,
            "patch_size": vision.patch_px,
            "layers": vision.layers,
            "width": vision.width,
            "head_width": vision.width // vision.heads,
            "mlp_ratio": vision.mlp_ratio,
        }
    return {
        "image_size": vision.image_px,
        "timm_model_name": _convnext_name(vision),
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": vision.head,
    }


def _convnext_name(vision: ConvNextTowerConfig) -> str:
    for name, sizes in CONVNEXT_SIZES.items():
        ours = (vision.widths, vision.depths), vision.patch_px, vision.norm_eps
        if ours == (sizes, 4, convnext_norm_eps(name)):
            return name
    raise ConfigError(
        f"clip.task.model.vision: widths={list(vision.widths)}, depths={list(vision.depths)}, "
        f"patch_px={vision.patch_px}, norm_eps={vision.norm_eps:g}: open_clip opens a ConvNeXt by "
        f"its name alone; it has {', '.join(CONVNEXT_SIZES)}"
    )
