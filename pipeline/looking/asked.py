"""What a curator asks of a run, read from the command line's words; imports nothing heavy."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.errors import ConfigError


class Band(NamedTuple):
    """Samples whose score is at least ``low`` and below ``high``."""

    score: str
    low: float
    high: float


class Near(NamedTuple):
    """Samples whose score is within ``change`` of a bound that is, or might be, set."""

    score: str
    bound: float
    change: float


@dataclass(frozen=True)
class Asked:
    """Everything that one sheet shows."""

    texts: tuple[str, ...] = ()
    """Nearest pictures to each."""
    pictures: tuple[str, ...] = ()
    """Nearest pictures to each picture file."""
    queries: tuple[str, ...] = ()
    """Random samples that contain each."""
    reasons: tuple[str, ...] = ()
    """Random samples that were dropped for each."""
    bands: tuple[Band, ...] = ()
    nears: tuple[Near, ...] = ()
    sweeps: bool = False
    anything: bool = False
    """Random samples of the whole data set."""
    number: int = 20
    """Samples of each group."""
    seed: int = 0
    profile: str | None = None
    """The keep-list that is looked at; None for all."""


def from_options(options: Mapping[str, Any], *, is_way: bool) -> Asked | None:
    """The sheet that a command line asks for; None where it asks for something else.

    Args:
        options: The command line's options by name.
        is_way: Whether the way of one sample, or rejects, are asked for.

    Raises:
        ConfigError: Options that do not go together, or nothing was asked.
    """
    number = options["draw"]
    searches = [*options["search_text"], *options["search_picture"]]
    is_sheet = bool(searches or options["near"] or options["sweeps"]) or number is not None
    _check(options, is_sheet=is_sheet, is_way=is_way)
    if not is_sheet:
        return None
    parts = options["query"] or options["reason"] or options["band"]
    return Asked(
        texts=tuple(options["search_text"]),
        pictures=tuple(options["search_picture"]),
        queries=tuple(options["query"]),
        reasons=tuple(options["reason"]),
        bands=bands(options["score"] or "", options["band"]),
        nears=nears(options["near"], options["change"]),
        sweeps=options["sweeps"],
        anything=number is not None and not parts,
        number=options["limit"] if number is None else number,
        seed=options["seed"],
        profile=options["profile"],
    )


def _check(options: Mapping[str, Any], *, is_sheet: bool, is_way: bool) -> None:
    if is_way and (is_sheet or options["query"]):
        raise ConfigError(
            "--url, --uid, --key and --rejects stand alone; ask for a sheet in a call of its own"
        )
    of_parts = options["reason"] or options["band"]
    if (of_parts or (options["query"] and is_sheet)) and options["draw"] is None:
        raise ConfigError("--query, --reason and --band are parts to draw from: add --sample 20")
    if bool(options["band"]) != bool(options["score"]):
        raise ConfigError("--score and --band belong together: --score similarity --band 0.2:0.25")
    for name in ("output", "profile"):
        if options[name] is not None and not is_sheet:
            raise ConfigError(
                f"--{name} {options[name]}: nothing to put on a sheet; add --sample, --near, "
                "--sweeps, --search-text or --search-picture"
            )
    for name, number in (("sample", options["draw"]), ("limit", options["limit"])):
        if number is not None and number < 1:
            raise ConfigError(f"--{name} {number}: at least 1")
    if not (is_way or is_sheet or options["query"]):
        raise ConfigError("nothing was asked; --help lists what can be")


def bands(score: str, texts: Sequence[str]) -> tuple[Band, ...]:
    """``0.2:0.25`` → a band; an empty side is open.

    Raises:
        ConfigError: One is no band.
    """
    return tuple(_band(score, text) for text in texts)


def _band(score: str, text: str) -> Band:
    low, colon, high = text.partition(":")
    try:
        band = Band(score, float(low or "-inf"), float(high or "inf"))
    except ValueError:
        band = Band(score, math.nan, math.nan)
    if not colon or not band.low < band.high:
        raise ConfigError(f"--band {text}: expected low:high with low below high, as in 0.2:0.25")
    return band


def nears(texts: Sequence[str], change: float | None) -> tuple[Near, ...]:
    """``similarity=0.28`` and a change → what is looked at.

    Raises:
        ConfigError: One names no score or no number, or the change is missing or not above 0.
    """
    if texts and (change is None or not 0 < change < math.inf):
        given = "missing" if change is None else f"{change:g}"
        raise ConfigError(f"--near {texts[0]}: --change is {given}; give one above 0, as in 0.02")
    return tuple(_near(text, change or 0.0) for text in texts)


def _near(text: str, change: float) -> Near:
    score, _, bound = text.partition("=")
    try:
        value = float(bound)
    except ValueError:
        value = math.nan
    if not score or not math.isfinite(value):
        raise ConfigError(f"--near {text}: expected score=bound, as in similarity=0.28")
    return Near(score, value, change)
