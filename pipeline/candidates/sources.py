"""One way in for every kind of source: plan its partitions, read one, name its files.

A partition is a small JSON-able mapping that one task reads::

    {"type": "url_table", "path": "…/a.parquet", "row_groups": [0, 4], "num_rows": 40000}
    {"type": "url_table", "path": "…/b.csv.gz", "row_groups": [], "num_rows": None}
    {"type": "url_table", "path": "…/broken.parquet", "damage": "…"}
    {"type": "wat", "path": "…/c.warc.wat.gz"}

Its position in the plan is its name; the same files give the same plan.
"""

import math
from collections.abc import Sequence
from typing import Any

from pipeline.candidates import common_crawl, files, folders, rows, url_tables
from pipeline.candidates.config import (
    FolderConfig,
    SourceConfig,
    UrlTableConfig,
    WarcConfig,
    WatConfig,
)
from pipeline.candidates.rows import Candidates
from pipeline.config import semantic
from pipeline.errors import DataError
from pipeline.identity import files_identity

NUM_NAMED = 3
"""Damaged places that an error names."""


def plan(config: SourceConfig) -> list[dict[str, Any]]:
    """The partitions of a source, in a fixed order; checks paths and column names.

    Raises:
        ConfigError: A path, a table or a column name is wrong.
    """
    if isinstance(config, UrlTableConfig):
        return url_tables.plan(config)
    if isinstance(config, FolderConfig):
        return folders.plan(config)
    return common_crawl.plan(config)


def read(config: SourceConfig, partition: dict[str, Any]) -> Candidates:
    """The candidates of one partition, what was dropped and what is damaged.

    A file that is not there, as a list of paths may name one, counts as damaged.
    """
    try:
        if isinstance(config, UrlTableConfig):
            return url_tables.read(config, partition)
        if isinstance(config, FolderConfig):
            return folders.read(config, partition)
        return common_crawl.read(config, partition)
    except FileNotFoundError:
        name = files.base_name(str(partition["path"]))
        return Candidates(rows.empty(), damage=[f"{name}: there is no such file"])


def count_damage(
    config: SourceConfig, partitions: Sequence[dict[str, Any]], damage: Sequence[Sequence[str]]
) -> dict[str, int]:
    """How many files there are and how many are damaged, in whole or in part.

    Args:
        config: The source, with the share it tolerates; the limit is rounded up to whole files, so
            that one damaged file among a few does not stop a job.
        partitions: All partitions of the source.
        damage: What reading each of them found.

    Raises:
        DataError: More files are damaged than the source tolerates.
    """
    together = list(zip(partitions, damage, strict=True))
    num_files = len({part["path"] for part, _ in together})
    num_damaged = len({part["path"] for part, lines in together if lines})
    share = config.execution.max_damaged_share
    if num_damaged > math.ceil(share * num_files):
        lines = [line for found in damage for line in found]
        more = f" and {len(lines) - NUM_NAMED} more" if len(lines) > NUM_NAMED else ""
        raise DataError(
            f"{num_damaged} of {num_files} candidate files are damaged, above "
            f"candidates.execution.max_damaged_share={share:g}: "
            f"{'; '.join(lines[:NUM_NAMED])}{more}. Repair these files or take them out of the "
            "path, or raise the share to go on with what can be read"
        )
    return {"num_files": num_files, "num_damaged_files": num_damaged}


def identity(config: SourceConfig) -> dict[str, Any]:
    """What the source is: its settings, and its files' names, lengths and hashes.

    Where the files lie does not enter. Files of up to 1 GiB together are read whole, of more both
    ends of each; a list of paths stands for the files it names. What pictures hold is seen when
    they are crawled; of a folder's pictures the lengths enter.
    """
    return {"settings": semantic(config), "files": _files(config)}


def _files(config: SourceConfig) -> list[dict[str, Any]]:
    if isinstance(config, FolderConfig):
        own = [{"sha256_of_folder": folders.pictures_identity(config)}]
        return own if config.captions is None else [*own, *_tables(config)]
    return _tables(config)


def _tables(config: SourceConfig) -> list[dict[str, Any]]:
    if isinstance(config, WarcConfig | WatConfig) and files.is_list(config.path):
        paths = [config.path]
    else:
        paths = sorted({str(partition["path"]) for partition in plan(config)})
    return files_identity(paths)
