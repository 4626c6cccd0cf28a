"""Which of Karlo's files make which model; imports nothing heavy."""

from pathlib import Path

from pipeline.errors import ConfigError

CLIP_STATISTICS = "ViT-L-14_stats"
_NAMES = {
    "prior": ("prior-ckpt", CLIP_STATISTICS),
    "decoder": ("decoder-ckpt",),
    "upsampler_64_256": ("improved-sr-ckpt",),
}
_ENDINGS = (".safetensors", ".ckpt", ".th", ".pt")


def files(folder: Path, model: str) -> list[Path]:
    """Every file that decides what a model is, by the beginnings of their published names.

    Raises:
        ConfigError: One is not there, or two may be meant.
    """
    if model not in _NAMES:
        raise ConfigError(f"imported.models: Karlo published {', '.join(_NAMES)}, not {model!r}")
    found = []
    for name in _NAMES[model]:
        paths = [p for p in sorted(folder.glob(f"{name}*")) if p.suffix in _ENDINGS]
        if len(paths) != 1:
            raise ConfigError(
                f"imported.path={folder} holds {len(paths)} files {name}* "
                f"({', '.join(_ENDINGS)}), {model} needs one"
            )
        found += paths
    return found
