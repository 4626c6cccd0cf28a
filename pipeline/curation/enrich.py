"""Steps of your own over decoded pictures: filters, scorers, recaptioners.

An *enricher* is a class that an installed package names in the entry-point group
``unclip_pipeline.enrichers``. It says which columns it reads and writes, and is called with
batches:

.. code-block:: python

    class Contrast:
        reads = ("image",)
        writes = {"contrast": pa.float32(), "drop_reason": pa.string()}

        def __init__(self, settings):
            self.least = settings["least"]

        def __call__(self, batch):
            scores = [ImageStat.Stat(image.convert("L")).stddev[0] for image in batch["image"]]
            reasons = [None if score >= self.least else "too_low" for score in scores]
            return {"contrast": scores, "drop_reason": reasons}

Columns to read: ``image`` (an upright RGB PIL picture as the pool keeps it), every column of a
shard's table but ``cluster``, what the source carried along, what earlier enrichers wrote. Columns
to write: new ones, which the shards' tables and JSON keep; ``drop_reason``, null to keep the
picture (``too_low`` is counted as ``contrast_too_low``); ``captions``, as many as there were: the
shards then hold these, and the old ones as ``original_captions``. Which queries a caption contains
was decided before. Where a batch ends must not matter: results are the same for any partitioning.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa
from PIL import Image

from pipeline.curation.config import EnricherConfig
from pipeline.curation.match import Manifest
from pipeline.curation.passes import JoinedFiles, Pools
from pipeline.curation.pictures import (
    OWN_COLUMNS,
    REJECTED,
    PicturePlan,
    drop_picture,
    pool_image,
    pool_schema,
    sample_schema,
)
from pipeline.errors import ConfigError, DataError
from pipeline.images.rejects import Rejects
from pipeline.plugins import plugin
from pipeline.shards.writer import publish_table

GROUP = "unclip_pipeline.enrichers"
IMAGE, CAPTIONS, DROP_REASON = "image", "captions", "drop_reason"
ORIGINAL_CAPTIONS = "original_captions"
BATCH_SIZE = 64
"""Pictures that are decoded at a time."""
REASON = re.compile(r"[a-z][a-z0-9_]*")

Row = dict[str, Any]


@runtime_checkable
class Enricher(Protocol):
    """What an entry point names: a class."""

    reads: Sequence[str]
    writes: Mapping[str, pa.DataType]

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """Make ready; once per worker process."""
        ...

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> Mapping[str, Sequence[Any]]:
        """The columns it reads → the columns it writes, as long."""
        ...


def check(configs: Sequence[EnricherConfig], balanced: pa.Schema) -> None:
    """Refuse, before work starts, enrichers that are not there or do not fit.

    Args:
        configs: In the order in which they run.
        balanced: Columns of the balanced pairs.

    Raises:
        ConfigError: One is not installed, has another version, or reads or writes what it may not.
    """
    columns = set(sample_schema(pool_schema(balanced)).names) - {"cluster"}
    for config in configs:
        kind = _class_of(config)
        if unknown := set(kind.reads) - columns - {IMAGE}:
            raise ConfigError(
                f"enricher {config.name} reads {sorted(unknown)[0]!r}; there are {IMAGE}, "
                f"{', '.join(sorted(columns))}"
            )
        _check_writes(config.name, kind.writes, columns)
        columns |= set(kind.writes) - {DROP_REASON}


def enrich_bucket(plan: PicturePlan, bucket: int) -> Manifest:
    """Pool of one bucket → its table with the columns of all enrichers, without what they drop."""
    pools, rejects = Pools(plan.folder, bucket), plan.rejects()
    table = pools.table()
    enrichers = [(config.name, _enricher(config)) for config in plan.config.enrichers]
    kept: list[Row] = []
    with pools.opened() as pool:
        for start in range(0, table.num_rows, BATCH_SIZE):
            rows = table.slice(start, BATCH_SIZE).to_pylist()
            kept += _enriched(rows, enrichers, pool, rejects)
    schema = _enriched_schema(table.schema, [enricher for _, enricher in enrichers])
    publish_table(plan.work("enriched", bucket), pa.Table.from_pylist(kept, schema))
    publish_table(plan.work("rejects", f"enrich-{bucket:05d}"), rejects.table())
    return {
        "kept": sum(len(row["uids"]) for row in kept),
        REJECTED: f"enrich-{bucket:05d}",
        "dropped": dict(rejects.dropped),
    }


def _enriched(
    rows: list[Row],
    enrichers: Sequence[tuple[str, Enricher]],
    pool: JoinedFiles,
    rejects: Rejects,
) -> list[Row]:
    images = {row["key"]: pool_image(row, pool) for row in rows}
    for name, enricher in enrichers:
        rows = list(_applied(rows, images, name, enricher, rejects)) if rows else []
    return rows


def _applied(
    rows: list[Row],
    images: Mapping[str, Image.Image],
    name: str,
    enricher: Enricher,
    rejects: Rejects,
) -> Iterator[Row]:
    """The rows that stay, with the columns of one enricher."""
    columns = {
        column: [images[row["key"]] if column == IMAGE else row[column] for row in rows]
        for column in enricher.reads
    }
    written = _checked(enricher(columns), rows, name, enricher.writes)
    for index, row in enumerate(rows):
        values = {column: found[index] for column, found in written.items()}
        reason = values.pop(DROP_REASON, None)
        if reason is not None:
            drop_picture(row, f"{name}_{reason}", lambda key=row["key"]: images[key], rejects)
            continue
        if CAPTIONS in values:
            values.setdefault(ORIGINAL_CAPTIONS, row.get(ORIGINAL_CAPTIONS, row[CAPTIONS]))
        yield {**row, **values}


def _checked(
    written: Mapping[str, Sequence[Any]],
    rows: Sequence[Row],
    name: str,
    declared: Mapping[str, pa.DataType],
) -> dict[str, list[Any]]:
    """What an enricher gave, held to what it declared."""
    if set(written) != set(declared):
        raise DataError(
            f"enricher {name} wrote {sorted(written)}, it declares {sorted(declared)}; correct one"
        )
    found = {}
    for column, values in written.items():
        if len(values) != len(rows):
            raise DataError(
                f"enricher {name} wrote {len(values)} values of {column} for {len(rows)} pictures"
            )
        try:
            found[column] = pa.array(list(values), declared[column]).to_pylist()
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataError(f"enricher {name}: {column} as {declared[column]}: {error}") from error
    _check_reasons(found.get(DROP_REASON, []), name)
    _check_captions(found.get(CAPTIONS), rows, name)
    return found


def _check_reasons(reasons: Sequence[str | None], name: str) -> None:
    for reason in reasons:
        if reason is not None and not REASON.fullmatch(reason):
            raise DataError(f"enricher {name}: drop_reason {reason!r} is not in snake_case")


def _check_captions(captions: Sequence[Any] | None, rows: Sequence[Row], name: str) -> None:
    for texts, row in zip(captions or (), rows, strict=False):
        if texts is None or len(texts) != len(row[CAPTIONS]) or not all(texts):
            raise DataError(
                f"enricher {name} wrote the captions {texts} for {row[CAPTIONS]} of {row['url']}; "
                "as many are needed, none empty"
            )


def _enriched_schema(pool: pa.Schema, enrichers: Sequence[Enricher]) -> pa.Schema:
    fields = {
        column: pa.field(column, kind)
        for enricher in enrichers
        for column, kind in enricher.writes.items()
        if column not in (DROP_REASON, CAPTIONS)
    }
    if any(CAPTIONS in enricher.writes for enricher in enrichers):
        fields[ORIGINAL_CAPTIONS] = pa.field(ORIGINAL_CAPTIONS, pa.list_(pa.string()))
    return pa.schema([*pool, *fields.values()])


def _check_writes(name: str, writes: Mapping[str, pa.DataType], columns: set[str]) -> None:
    special = {DROP_REASON: pa.string(), CAPTIONS: pa.list_(pa.string())}
    for column, kind in writes.items():
        if column in special and kind != special[column]:
            raise ConfigError(
                f"enricher {name} writes {column} as {kind}; it must be {special[column]}"
            )
        taken = column in columns | OWN_COLUMNS | {IMAGE, ORIGINAL_CAPTIONS}
        if column not in special and taken:
            raise ConfigError(f"enricher {name} writes {column!r}, which exists; choose a new name")


def _class_of(config: EnricherConfig) -> Any:  # noqa: ANN401 - whatever a package names
    return plugin(GROUP, "enricher", config.name, config.version)


def _enricher(config: EnricherConfig) -> Enricher:
    return _made(config.name, config.version, json.dumps(config.settings, sort_keys=True))


@lru_cache(maxsize=8)
def _made(name: str, version: str, settings: str) -> Enricher:
    config = EnricherConfig(name=name, version=version, settings=json.loads(settings))
    return _class_of(config)(config.settings)
