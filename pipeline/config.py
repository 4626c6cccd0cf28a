"""A YAML run file plus ``--set a.b=value`` overrides becomes one frozen, checked object.

Fields named ``execution`` say *how* to run (workers, batch per device), those in ``PLACES`` *where*
a file lies; neither changes what comes out, for a file's content has an identity of its own. Every
other field is semantic and part of a result's identity (``identity.py``).
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.credentials import refuse_in_run_file
from pipeline.errors import ConfigError

MAX_RUN_FILE_BYTES = 1_000_000
EXECUTION = "execution"
PLACES = ("path", "paths", "prefix")


class StrictModel(BaseModel):
    """Immutable configuration that rejects unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


Model = TypeVar("Model", bound=StrictModel)


def load_run(model: type[Model], path: str | Path, overrides: Sequence[str] = ()) -> Model:
    """Read a run file, apply overrides and check every key.

    Args:
        model: The run model to build.
        path: YAML file.
        overrides: ``a.b=value`` strings, values in YAML; later ones win.

    Raises:
        ConfigError: The file cannot be read, is no mapping, or a key or value is refused.
    """
    return checked(model, raw_values(path, overrides), str(path))


def checked(model: type[Model], values: Mapping[str, Any], source: str) -> Model:
    """A model of these values.

    Raises:
        ConfigError: A key or value is refused; ``source`` says where it came from.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}: {describe(error, model)}") from error


def raw_values(path: str | Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The run file's mapping after the overrides; nothing is checked but that it tells no secret.

    Raises:
        ConfigError: It cannot be read, or an address holds a user's name.
    """
    values = read_yaml(path)
    for override in overrides:
        _apply_override(values, override)
    refuse_in_run_file(values, str(path))
    return values


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read one YAML mapping with the safe loader; size is capped and aliases are refused."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read the run file: {error}") from error
    if len(text) > MAX_RUN_FILE_BYTES:
        raise ConfigError(f"{path}: {len(text)} characters, at most {MAX_RUN_FILE_BYTES}")
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise ConfigError(f"{path}: YAML aliases (*name) are not accepted; repeat the value")
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds {type(values).__name__}, expected a mapping of sections")
    return values


def _apply_override(values: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override}: expected a.b=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML: {error}") from error
    node: Any = values
    for key in keys[:-1]:
        place = _place_in(node, key, override)
        if isinstance(node, dict):
            node.setdefault(place, {})
        node = node[place]
    node[_place_in(node, keys[-1], override)] = value


def _place_in(node: Any, key: str, override: str) -> str | int:  # noqa: ANN401 - YAML
    """A key of a section, or a number of a list."""
    if isinstance(node, dict):
        return key
    if isinstance(node, list) and key.isdigit() and int(key) < len(node):
        return int(key)
    what = f"a list of {len(node)}" if isinstance(node, list) else "a value, not a section"
    raise ConfigError(f"--set {override}: {key} stands in {what}")


def describe(error: ValidationError, model: type[StrictModel]) -> str:
    """Turn pydantic's findings into one line each: dotted path, value, rule, nearest name."""
    lines = []
    for finding in error.errors(include_url=False):
        path, names = _place(model, finding["loc"])
        dotted = ".".join(path)
        if finding["type"] == "extra_forbidden":
            lines.append(f"unknown key {dotted}{_nearest(path, names)}")
        elif finding["type"] == "missing":
            lines.append(f"{dotted} is missing; this run must decide it")
        else:
            value = "" if isinstance(finding["input"], dict) else f"={_short(finding['input'])}"
            where = f"{dotted}{value}: " if dotted else ""
            lines.append(f"{where}{finding['msg'].removeprefix('Value error, ')}")
    return "; ".join(lines)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{type(value).__name__} of {len(text)} characters"


def _nearest(path: list[str], names: set[str]) -> str:
    """Name the closest valid key of the section that a wrong key stands in."""
    close = difflib.get_close_matches(path[-1], sorted(names), n=1, cutoff=0.5)
    if close:
        return f"; did you mean {'.'.join([*path[:-1], close[0]])}?"
    return f"; valid here: {', '.join(sorted(names))}" if names else ""


def _place(model: type[StrictModel], location: tuple[int | str, ...]) -> tuple[list[str], set[str]]:
    """The path as a person would write it, and the keys that are valid beside its last part.

    Pydantic's location also names the branch of a union, which no run file holds.
    """
    path: list[str] = []
    models = [model]
    for depth, part in enumerate(location):
        fields = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        is_last = depth == len(location) - 1
        branch = [m for m in models if _has_tag(m, part)]
        if not fields and not isinstance(part, int) and (branch or not is_last):
            models = branch or models
            continue
        path.append(str(part))
        if not is_last and fields:
            models = [inner for annotation in fields for inner in _models_in(annotation)]
    names = set().union(*(m.model_fields for m in models)) if models else set()
    return path, names


def _has_tag(model: type[StrictModel], tag: int | str) -> bool:
    if tag == model.__name__:  # unions that a function decides have classes as their tags
        return True
    field = model.model_fields.get("type")
    return field is not None and tag in get_args(field.annotation)


def _models_in(annotation: Any) -> list[type[StrictModel]]:  # noqa: ANN401 - any type expression
    if isinstance(annotation, type) and issubclass(annotation, StrictModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]


def semantic(config: BaseModel) -> dict[str, Any]:
    """The JSON values that decide what comes out: neither ``execution`` nor ``PLACES``."""
    return _what_only(config.model_dump(mode="json"))


def _what_only(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, Mapping):
        kept = value.keys() - {EXECUTION, *PLACES}
        return {name: _what_only(item) for name, item in value.items() if name in kept}
    if isinstance(value, list):
        return [_what_only(item) for item in value]
    return value
