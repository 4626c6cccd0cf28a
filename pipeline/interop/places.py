"""Which files of somebody else's make which model; imports nothing heavy."""

from pathlib import Path

from pipeline.interop import karlo_files
from pipeline.interop.config import ImportedConfig
from pipeline.interop.diffusers import places as diffusers


def files(config: ImportedConfig, model: str) -> list[Path]:
    """Every file that decides what a model is.

    Raises:
        ConfigError: One is not there.
    """
    of = karlo_files.files if config.format == "karlo" else diffusers.files
    return of(Path(config.path), model)
