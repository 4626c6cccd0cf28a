"""Classes of a user's own, which installed packages name as entry points."""

from importlib.metadata import entry_points
from typing import Any

from pipeline.errors import ConfigError


def plugin(group: str, kind: str, name: str, version: str) -> Any:  # noqa: ANN401 - a user's class
    """The class behind an entry point.

    Args:
        group: Group of entry points.
        kind: What its members are called, for messages.
        name: Of the entry point.
        version: Of the package that brings it.

    Raises:
        ConfigError: It is not installed, or in another version: results would differ.
    """
    found = entry_points(group=group)
    if name not in found.names:
        raise ConfigError(
            f"{kind} {name!r} is not installed on this machine; the group {group} has "
            f"{', '.join(sorted(found.names)) or 'none'}"
        )
    point = found[name]
    installed = None if point.dist is None else point.dist.version
    if installed != version:
        raise ConfigError(f"{kind} {name}: version {version} is wanted, {installed} is installed")
    return point.load()
