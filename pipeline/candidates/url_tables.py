"""Tables of addresses and captions → candidates: Parquet, CSV, TSV, JSON and JSON lines.

Parquet is read by row groups, so that one file may give many partitions. A text table
(``text_tables``) is one partition; split large ones into files.
"""

import difflib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.candidates import files, rows, text_tables
from pipeline.candidates.config import UrlTableConfig
from pipeline.candidates.rows import Candidates, RawRows
from pipeline.errors import ConfigError

ROWS_PER_PARTITION = 200_000
"""A partition's row groups hold together no more rows than this, unless one alone holds more."""
PARQUET = ".parquet"
ENDINGS = (PARQUET, *text_tables.ENDINGS)


def plan(config: UrlTableConfig) -> list[dict[str, Any]]:
    """The partitions of all files behind ``config.path``, by file name, then by row group.

    A file that cannot be opened is a partition of its own, which holds the cause.

    Raises:
        ConfigError: No file, none that is a table, a column that a table lacks, or a carried
            column of several types.
    """
    partitions: list[dict[str, Any]] = []
    types: dict[str, pa.Schema] = {}
    for path in files.expand(config.path, ENDINGS):
        try:
            found, types[path] = _plan_file(config, path)
        except _UnreadableError as error:
            found = [{"type": "url_table", "path": path, "damage": str(error)}]
        partitions += found
    if not types:
        others = f", nor is any other of {len(partitions)} files" if len(partitions) > 1 else ""
        raise ConfigError(
            f"{partitions[0]['path']} is no readable table ({partitions[0]['damage']}){others}; "
            "repair it, rename it to its real format, or correct the path"
        )
    _check_one_type(config, types)
    return partitions


def read(
    config: UrlTableConfig, partition: dict[str, Any], *, is_local: bool = False
) -> Candidates:
    """The candidates of one partition; a damaged place is named and the rest is read.

    Args:
        config: Which columns mean what.
        partition: One of ``plan``.
        is_local: Whether the addresses are paths inside the source's folder.
    """
    path = str(partition["path"])
    damage: list[str] = []
    dropped: Counter[str] = Counter()
    tables: list[pa.Table] = []
    for batch in _batches(config, partition, dropped, damage):
        found = rows.build(_raw(config, batch, is_local), config.sample)
        tables.append(found.table)
        dropped.update(found.dropped)
    empty = rows.empty(_carried_schema(config, path))
    table = pa.concat_tables(tables or [empty]).combine_chunks()
    return Candidates(table, dict(dropped), damage)


def _batches(
    config: UrlTableConfig, partition: dict[str, Any], dropped: Counter[str], damage: list[str]
) -> Iterator[pa.Table]:
    path = str(partition["path"])
    if "damage" in partition:
        damage.append(f"{files.base_name(path)}: unreadable: {partition['damage']}")
    elif _is_parquet(path):
        yield from _parquet_tables(config, partition, damage)
    else:
        yield from text_tables.tables(path, _columns(config), dropped, damage)


class _UnreadableError(Exception):
    """A file that is no table, or a damaged one."""


def _plan_file(config: UrlTableConfig, path: str) -> tuple[list[dict[str, Any]], pa.Schema]:
    """Partitions and carried columns of a file."""
    if _is_parquet(path):
        return _plan_parquet(config, path)
    _check_columns(config, path, _columns_of_text(path))
    partition = {"type": "url_table", "path": path, "row_groups": [], "num_rows": None}
    return [partition], pa.schema([(name, pa.string()) for name in config.carried_columns])


def _check_one_type(config: UrlTableConfig, types: dict[str, pa.Schema]) -> None:
    """Refuse a carried column that files disagree about; a column without any value fits all."""
    for name in config.carried_columns:
        kinds = {
            path: found.field(name).type
            for path, found in types.items()
            if not pa.types.is_null(found.field(name).type)
        }
        first = next(iter(kinds), "")
        for path, kind in kinds.items():
            if kind != kinds[first]:
                raise ConfigError(
                    f"carried column {name!r} holds {kinds[first]} in {first} and {kind} in "
                    f"{path}; write it with one type, or leave it out of carried_columns"
                )


def _is_parquet(path: str) -> bool:
    return path.lower().endswith(PARQUET)


def _columns(config: UrlTableConfig) -> list[str]:
    """Every column the configuration names, each once, in a fixed order."""
    named = (
        config.url_column,
        config.caption_column,
        config.page_url_column,
        config.licence_column,
        *config.carried_columns,
    )
    return list(dict.fromkeys(name for name in named if name is not None))


def _check_columns(config: UrlTableConfig, path: str, existing: list[str]) -> None:
    for name in _columns(config):
        if name not in existing:
            near = difflib.get_close_matches(name.lower(), [e.lower() for e in existing], n=1)
            meant = [e for e in existing if near and e.lower() == near[0]]
            hint = f"; did you mean {meant[0]!r}?" if meant else ""
            raise ConfigError(
                f"column {name!r} is not in {path}, which has {', '.join(existing)}{hint} "
                "Name the columns by url_column, caption_column, ..."
            )


def _raise_unless_damage(error: Exception) -> None:
    if not files.is_damage(error):
        raise error


def _plan_parquet(config: UrlTableConfig, path: str) -> tuple[list[dict[str, Any]], pa.Schema]:
    try:
        with storage.open_for_read(path) as file:
            parquet = pq.ParquetFile(file)
            types = parquet.schema_arrow
            sizes = [
                parquet.metadata.row_group(index).num_rows
                for index in range(parquet.num_row_groups)
            ]
    except files.UNREADABLE as error:
        _raise_unless_damage(error)
        raise _UnreadableError(error) from error
    _check_columns(config, path, types.names)
    for name in _columns(config):
        if name not in config.carried_columns and not _is_text(types.field(name).type):
            raise ConfigError(
                f"column {name!r} of {path} holds {types.field(name).type}, expected text; "
                "name another column or write it as strings"
            )
    partitions = [
        {
            "type": "url_table",
            "path": path,
            "row_groups": [first, stop],
            "num_rows": sum(sizes[first:stop]),
        }
        for first, stop in _groups_together(sizes)
    ]
    return partitions, pa.schema([types.field(name) for name in config.carried_columns])


def _groups_together(sizes: list[int]) -> list[tuple[int, int]]:
    """Cut a file's row groups into runs of at most ``ROWS_PER_PARTITION`` rows."""
    runs: list[tuple[int, int]] = []
    first, total = 0, 0
    for index, size in enumerate(sizes):
        if index > first and total + size > ROWS_PER_PARTITION:
            runs.append((first, index))
            first, total = index, 0
        total += size
    return [*runs, (first, len(sizes))] if sizes else []


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return (
        pa.types.is_string(value)
        or pa.types.is_large_string(value)
        or pa.types.is_string_view(value)
        or pa.types.is_null(value)
    )


def _parquet_tables(
    config: UrlTableConfig, partition: dict[str, Any], damage: list[str]
) -> Iterator[pa.Table]:
    path, (first, stop) = str(partition["path"]), partition["row_groups"]
    with storage.open_for_read(path) as file:
        try:
            parquet = pq.ParquetFile(file)
        except files.UNREADABLE as error:
            _raise_unless_damage(error)
            damage.append(f"{files.base_name(path)}: unreadable: {error}")
            return
        for group in range(first, stop):
            try:
                table = parquet.read_row_group(group, columns=_columns(config))
            except files.UNREADABLE as error:
                _raise_unless_damage(error)
                damage.append(f"{files.base_name(path)}: row group {group} is unreadable: {error}")
                continue
            yield table.replace_schema_metadata(None)


def _columns_of_text(path: str) -> list[str]:
    try:
        return text_tables.column_names(path)
    except (*files.UNREADABLE, ValueError) as error:
        _raise_unless_damage(error)
        raise _UnreadableError(error) from error


def _carried_schema(config: UrlTableConfig, path: str) -> pa.Schema:
    if not _is_parquet(path):
        return pa.schema([(name, pa.string()) for name in config.carried_columns])
    try:
        with storage.open_for_read(path) as file:
            types = pq.read_schema(file)
    except files.UNREADABLE as error:
        _raise_unless_damage(error)  # damage is already named
        return pa.schema([(name, pa.string()) for name in config.carried_columns])
    return pa.schema([types.field(name) for name in config.carried_columns])


def _raw(config: UrlTableConfig, table: pa.Table, is_local: bool) -> RawRows:
    def values(name: str | None) -> list[str | None] | None:
        return None if name is None else pc.cast(table.column(name), pa.string()).to_pylist()

    carried = list(config.carried_columns)
    return RawRows(
        urls=values(config.url_column) or [],
        captions=values(config.caption_column) or [],
        page_urls=values(config.page_url_column),
        licences=values(config.licence_column),
        carried=table.select(carried) if carried else None,
        url_prefix=config.url_prefix,
        is_local=is_local,
    )
