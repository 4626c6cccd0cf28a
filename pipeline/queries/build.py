"""The query list as a stage: count captions in parallel, build the list once.

Reads ``candidates``, writes ``queries.parquet``. Each partition's counts are a file of their own,
so that a rerun counts only what is missing.
"""

import time
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.candidates import sources
from pipeline.candidates.config import UrlTableConfig, WarcConfig
from pipeline.candidates.schema import CAPTION
from pipeline.errors import ConfigError
from pipeline.identity import file_identity, fingerprint
from pipeline.partitions import map_partitions
from pipeline.progress import Progress
from pipeline.queries import query_list
from pipeline.queries.config import CaptionsSource, Profile, QueriesConfig
from pipeline.results import StageOutput

QUERIES_FILE = "queries.parquet"
_SOURCE_SUFFIXES = (".json", ".txt", ".gz", ".parquet")


def sources_hash(config: QueriesConfig) -> str:
    """Identity of the foreign files that the list is built from."""
    files: list[dict[str, Any]] = []
    for source in config.sources:
        if isinstance(source, CaptionsSource):
            continue
        if not storage.exists(source.path):
            raise ConfigError(
                f"queries.sources: {source.path!r} ({source.type}) does not exist; correct the path"
            )
        if source.path.lower().endswith(_SOURCE_SUFFIXES):
            files.append(file_identity(source.path))
        else:
            names = storage.list_names(source.path)
            files += [file_identity(storage.join(source.path, name)) for name in names]
    return fingerprint(files)


def build_queries(
    config: QueriesConfig, candidates: UrlTableConfig | WarcConfig, uri: str, progress: Progress
) -> StageOutput:
    """Build and publish the query list of a run."""
    from_captions = [s.max_words for s in config.sources if isinstance(s, CaptionsSource)]
    work: list[tuple[float, float]] = []
    ngrams = None
    if from_captions:
        ngrams = _count_captions(config, candidates, max(from_captions), uri, progress, work)
    started = time.time()
    queries = query_list.build(config, ngrams)
    query_list.write(queries, storage.join(uri, QUERIES_FILE))
    work.append((started, time.time()))
    content = {
        "file": QUERIES_FILE,
        "num_queries": queries.table.num_rows,
        "fingerprint": queries.fingerprint,
        "left_out": queries.left_out,
    }
    return StageOutput(content, work)


def _count_captions(
    config: QueriesConfig,
    candidates: UrlTableConfig | WarcConfig,
    max_words: int,
    uri: str,
    progress: Progress,
    work: list[tuple[float, float]],
) -> pa.Table:
    partitions = sources.plan(candidates)
    rows = [{"number": number, "partition": part} for number, part in enumerate(partitions)]
    count = partial(
        _count_partition,
        candidates=candidates,
        max_words=max_words,
        profile=config.profile,
        folder=storage.join(uri, "counts"),
    )
    paths = []
    with progress.stage("count captions", total=len(rows), unit="partitions") as bar:
        for done in map_partitions(count, rows):
            paths.append(done["path"])
            work.append((done["started_s"], done["ended_s"]))
            bar.advance()
    return query_list.merge([_read_table(path) for path in sorted(paths)])


def _count_partition(
    row: dict[str, Any],
    candidates: UrlTableConfig | WarcConfig,
    max_words: int,
    profile: Profile,
    folder: str,
) -> dict[str, Any]:
    started = time.time()
    path = storage.join(folder, f"{row['number']:06d}.parquet")
    if not storage.exists(path):
        captions = sources.read(candidates, row["partition"]).table.column(CAPTION).to_pylist()
        table = query_list.count_ngrams(captions, max_words, profile)
        with storage.open_for_publish(path) as file:
            pq.write_table(table, file, compression="zstd")
    return {"path": path, "started_s": started, "ended_s": time.time()}


def _read_table(uri: str) -> pa.Table:
    with storage.open_for_read(uri) as file:
        return pq.read_table(file)
