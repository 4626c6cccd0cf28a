"""Which files of a folder make which model; imports nothing heavy."""

from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.interop.config import UPSAMPLER

CONFIG, SCHEDULER = "config.json", "scheduler_config.json"
WEIGHTS = (
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
)
"""Names of weights files, the first that is there counts."""
SUPER_RES, LAST_STEP = "super_res_first", "super_res_last"
COMPONENTS = {
    "clip": ("text_encoder", "image_encoder"),
    "prior": ("prior",),
    "decoder": ("decoder", "text_proj"),
}


def components(folder: Path, model: str) -> tuple[str, ...]:
    """Folders with the weights of a model.

    The pipelines' own upsampler lies in ``super_res_first``, further ones under their names.
    """
    if not UPSAMPLER.fullmatch(model):
        return COMPONENTS[model]
    return (f"{model}/unet",) if (folder / model).is_dir() else (SUPER_RES,)


def scheduler(folder: Path, model: str) -> str | None:
    """Folder of a model's scheduler."""
    if model == "clip":
        return None
    if not UPSAMPLER.fullmatch(model):
        return f"{model}_scheduler"
    return f"{model}/scheduler" if (folder / model).is_dir() else "super_res_scheduler"


def weights_file(folder: Path) -> Path:
    """The weights of one component.

    Raises:
        ConfigError: There are none.
    """
    found = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not found:
        raise ConfigError(f"{folder} holds no weights: expected {' or '.join(WEIGHTS)}")
    return found[0]


def files(folder: Path, model: str) -> list[Path]:
    """Every file that decides what a model is.

    Raises:
        ConfigError: One is not there.
    """
    found = []
    for component in components(folder, model):
        found += [folder / component / CONFIG, weights_file(folder / component)]
    if (steps := scheduler(folder, model)) is not None:
        found.append(folder / steps / SCHEDULER)
    missing = [str(path) for path in found if not path.is_file()]
    if missing:
        raise ConfigError(f"imported.path={folder}: {', '.join(missing)}: no such file")
    return found
