"""Folders for other programs: there whole, or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import ConfigError


def check_new(output: str) -> Path:
    """The folder's place.

    Raises:
        ConfigError: Something is there.
    """
    if Path(output).exists():
        raise ConfigError(f"{output} exists; name a new folder")
    return Path(output)


@contextmanager
def new_folder(output: str) -> Iterator[Path]:
    """A folder under another name, which gets its own when the block ends without an error."""
    target = check_new(output)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
