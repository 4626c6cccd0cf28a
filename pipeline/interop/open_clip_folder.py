"""A CLIP as a folder that open_clip opens: ``create_model("local-dir:<folder>")``.

Names of parameters are open_clip's own, so weights are written as they are, temperature included.
Nothing here imports open_clip.
"""

from typing import Any

from pipeline import storage
from pipeline.generation.weights import Published
from pipeline.interop.new_folder import new_folder
from pipeline.interop.pairs import meta_state
from pipeline.models.clip import MEAN, STD
from pipeline.models.config import ClipConfig
from pipeline.models.presets import build_clip
from pipeline.weights_file import check_state, write_safetensors

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


def export(found: Published, output: str) -> dict[str, Any]:
    """Write the folder.

    Args:
        found: A trained or imported CLIP.
        output: Local folder that does not exist yet.

    Returns:
        ``models``: the weights' fingerprint.

    Raises:
        ConfigError: The folder exists.
        CheckpointError: Weights do not fit their own configuration.
    """
    config = found.model(ClipConfig)
    check_state(meta_state(lambda: build_clip(config)), found.state, found.uri)
    with new_folder(output) as folder:
        write_safetensors(str(folder / WEIGHTS), found.state, {"format": "pt"})
        settings = {
            "model_cfg": model_config(config),
            "preprocess_cfg": {"mean": list(MEAN), "std": list(STD)},
        }
        storage.write_json(str(folder / CONFIG), settings)
    return {"models": {"clip": found.sha256}}


def model_config(config: ClipConfig) -> dict[str, Any]:
    """Our configuration in open_clip's words."""
    vision, text = config.vision, config.text
    return {
        "embed_dim": config.embed_dim,
        "vision_cfg": {
            "image_size": vision.image_px,
            "patch_size": vision.patch_px,
            "layers": vision.layers,
            "width": vision.width,
            "head_width": vision.width // vision.heads,
            "mlp_ratio": vision.mlp_ratio,
        },
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
