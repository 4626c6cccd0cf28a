"""Text tables (CSV, TSV, JSON, JSON lines, plain or gzip) as Arrow tables of strings.

A text table is read from its start to its end by one task, because a quoted line end inside a
field makes every cut a guess. Every value is read as a string: a caption ``007`` stays what it is;
a JSON number, list or object becomes its JSON text.
"""

import gzip
import io
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from pyarrow import csv

from pipeline import storage
from pipeline.candidates import files, schema
from pipeline.candidates.rows import well_formed

JSON_ROWS_PER_BATCH = 50_000
CSV_BLOCK_BYTES = 8 << 20
"""A CSV row may not be longer."""
DELIMITERS = {".csv": ",", ".tsv": "\t"}
FORMATS = (".csv", ".tsv", ".json", ".jsonl")
ENDINGS = (*FORMATS, *(f"{ending}.gz" for ending in FORMATS))


def tables(
    path: str, columns: list[str], dropped: Counter[str], damage: list[str]
) -> Iterator[pa.Table]:
    """The named columns of a text table, in pieces.

    Args:
        path: A file whose name ends in one of ``ENDINGS``.
        columns: Names of the columns to read.
        dropped: Receives the count of rows that are no rows (``unreadable_row``).
        damage: Receives a line where the file breaks off.
    """
    if _format(path) in DELIMITERS:
        return _delimited_tables(path, columns, dropped, damage)
    return _json_tables(path, columns, dropped, damage)


def column_names(path: str) -> list[str]:
    """The header of a CSV or TSV table, or the keys of a JSON table's first object.

    Raises:
        ValueError: The file starts with no header and no JSON object.
    """
    damage: list[str] = []
    with _open_text(path, damage) as file:
        if _format(path) in DELIMITERS and file.peek(1):
            return list(_open_delimited(file, path, [], Counter()).schema.names)
        row = None if _format(path) in DELIMITERS else next(_json_rows(file), None)
    if row is None:
        raise ValueError(damage[0] if damage else "it starts with no header and no JSON object")
    return list(row)


def _format(path: str) -> str:
    return "." + path.lower().removesuffix(".gz").rsplit(".", 1)[-1]


@contextmanager
def _open_text(path: str, damage: list[str]) -> Iterator[io.BufferedReader]:
    with storage.open_for_read(path) as file:
        packed = path.lower().endswith(".gz")
        # read1 hands out what precedes a break; read would lose it with the error.
        read = gzip.GzipFile(fileobj=file, mode="rb").read1 if packed else file.read
        yield io.BufferedReader(files.WholeLines(read, files.base_name(path), damage))


def _open_delimited(
    file: io.BufferedReader, path: str, columns: list[str], dropped: Counter[str]
) -> csv.CSVStreamingReader:
    def skip(_: Any) -> str:  # noqa: ANN401 - a row pyarrow rejects
        dropped[schema.UNREADABLE_ROW] += 1
        return "skip"

    return csv.open_csv(
        file,
        read_options=csv.ReadOptions(use_threads=False, block_size=CSV_BLOCK_BYTES),
        parse_options=csv.ParseOptions(
            delimiter=DELIMITERS[_format(path)], newlines_in_values=True, invalid_row_handler=skip
        ),
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(columns, pa.binary()),
            include_columns=columns,
        ),
    )


def _delimited_tables(
    path: str, columns: list[str], dropped: Counter[str], damage: list[str]
) -> Iterator[pa.Table]:
    num_rows = 0
    with _open_text(path, damage) as file:
        try:
            for batch in _open_delimited(file, path, columns, dropped):
                yield _texts(pa.Table.from_batches([batch]), dropped)
                num_rows += batch.num_rows
        except (UnicodeDecodeError, pa.ArrowInvalid, pa.ArrowKeyError) as error:
            damage.append(f"{files.base_name(path)}: unreadable after row {num_rows}: {error}")


def _texts(batch: pa.Table, dropped: Counter[str]) -> pa.Table:
    """Columns of bytes as text; a row that is no UTF-8 falls, and no other."""
    try:
        return batch.cast(pa.schema([(name, pa.string()) for name in batch.column_names]))
    except pa.ArrowInvalid:
        rows = [row for each in batch.to_pylist() if (row := _decoded(each)) is not None]
        dropped[schema.UNREADABLE_ROW] += batch.num_rows - len(rows)
        return pa.Table.from_pylist(
            rows, pa.schema([(name, pa.string()) for name in batch.column_names])
        )


def _decoded(row: dict[str, bytes | None]) -> dict[str, str | None] | None:
    try:
        return {name: None if cell is None else cell.decode() for name, cell in row.items()}
    except UnicodeDecodeError:
        return None


def _json_tables(
    path: str, columns: list[str], dropped: Counter[str], damage: list[str]
) -> Iterator[pa.Table]:
    pending: list[dict[str, Any]] = []
    with _open_text(path, damage) as file:
        try:
            for row in _json_rows(file):
                if row is None:
                    dropped[schema.UNREADABLE_ROW] += 1
                    continue
                pending.append(row)
                if len(pending) == JSON_ROWS_PER_BATCH:
                    yield _strings(pending, columns)
                    pending = []
        except (ValueError, RecursionError) as error:  # an array is read whole or not at all
            damage.append(f"{files.base_name(path)}: unreadable JSON: {error}")
    yield _strings(pending, columns)


def _json_rows(file: io.BufferedReader) -> Iterator[dict[str, Any] | None]:
    """Objects of a JSON array or of JSON lines; None for what is no object."""
    first = file.read(1)
    while first.isspace():
        first = file.read(1)
    if first == b"[":
        for row in json.loads(first + file.read()):
            yield row if isinstance(row, dict) else None
        return
    line = first + file.readline()
    while line:
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            yield row if isinstance(row, dict) else None
        line = file.readline()


def _strings(found: list[dict[str, Any]], columns: list[str]) -> pa.Table:
    return pa.table(
        {
            name: pa.array([_as_string(row.get(name)) for row in found], pa.string())
            for name in columns
        }
    )


def _as_string(value: Any) -> str | None:  # noqa: ANN401 - any JSON value
    if isinstance(value, str):
        return well_formed(value)
    return None if value is None else well_formed(json.dumps(value, ensure_ascii=False))
