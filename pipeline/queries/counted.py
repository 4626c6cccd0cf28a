"""What counting gave for a source, and when damaged files stop it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from pipeline.candidates.files import base_name
from pipeline.errors import DataError
from pipeline.partitions import Row
from pipeline.queries.config import DumpSource


@dataclass(frozen=True)
class Counted:
    """What counting gave for one source."""

    table: pa.Table
    """``schema.NGRAM_COUNTS``: what passed the source's rule, sorted."""
    left_out: dict[str, int] = field(default_factory=dict)
    """How many did not, by reason."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Numbers for the manifest: files, pages, words."""
    damage: list[str] = field(default_factory=list)
    """One line per damaged place: file name, byte, cause."""

    def met(self, facts: dict[str, Any], damage: list[str]) -> "Counted":
        """The same, with what was met on the way."""
        return replace(self, facts=facts, damage=damage)


def file_facts(wanted: Mapping[str, DumpSource], done: Sequence[Row]) -> dict[str, Any]:
    """Numbers of files and of damaged ones, for the manifest.

    Args:
        wanted: The sources that read these files, by name.
        done: What was read: ``path`` and ``damage`` (lines) of every partition.

    Raises:
        DataError: The share of damaged files is above a source's limit.
    """
    damage: dict[str, list[str]] = {}
    for each in done:
        damage.setdefault(each["path"], []).extend(each["damage"])
    damaged = {path: lines for path, lines in damage.items() if lines}
    for name, source in wanted.items():
        share = source.execution.max_damaged_share
        if len(damaged) > math.ceil(share * len(damage)):
            raise DataError(
                f"{len(damaged)} of {len(damage)} files of source {name} are damaged, more than "
                f"execution.max_damaged_share={share:g} allows, the first at "
                f"{next(iter(damaged.values()))[0]}; load these files again, or raise the share"
            )
    return {"files": len(damage), "damaged_files": sorted(map(base_name, damaged))}


def damage_lines(done: Sequence[Row]) -> list[str]:
    """All damaged places, in the order of the partitions."""
    return [line for each in done for line in each["damage"]]
