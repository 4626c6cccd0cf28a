"""The query list as a stage: count in parallel, build the list once.

Reads the sources' files and, where captions are a source, ``candidates``; writes
``queries.parquet``. Counting leaves working files, so that a rerun counts only what is missing;
they are deleted once the list is there.
"""

import time
from collections.abc import Mapping
from typing import Any

from pipeline import storage
from pipeline.candidates import files
from pipeline.candidates.config import SourceConfig
from pipeline.errors import ConfigError
from pipeline.identity import files_identity, fingerprint
from pipeline.progress import Progress
from pipeline.queries import (
    count_captions,
    count_dumps,
    count_views,
    page_views,
    query_files,
    query_list,
    wikipedia,
    wordnet,
)
from pipeline.queries.config import (
    CaptionsSource,
    ListSource,
    PageViewsSource,
    QueriesConfig,
    QuerySource,
    WikipediaBigramsSource,
    WikipediaWordsSource,
    WordnetSource,
)
from pipeline.queries.counted import Counted
from pipeline.queries.query_list import QueryList
from pipeline.results import StageOutput
from pipeline.steps import Steps

SUMMARY = "built.json"
"""Content and work intervals, written before working files are deleted."""


def sources_hash(config: QueriesConfig) -> str:
    """Identity of the foreign files that the list is built from, by source."""
    paths = [_paths(source) for source in config.sources]
    read = list(dict.fromkeys(path for each in paths for path in each))
    found = dict(zip(read, files_identity(read), strict=True))
    return fingerprint([[found[path] for path in each] for each in paths])


def build_queries(
    config: QueriesConfig,
    candidates: SourceConfig | None,
    uri: str,
    progress: Progress,
) -> StageOutput:
    """Build and publish the query list of a run. Ray is open already.

    Args:
        config: Sources, limit and profile.
        candidates: Where captions come from; None where no source needs them.
        uri: Folder of the stage; unfinished work found there is continued.
        progress: Where people see how far it is.

    Raises:
        ConfigError: A source is missing or unreadable, or nothing is left of all of them.
        DataError: Too many files of a source are damaged.
    """
    summary = storage.join(uri, SUMMARY)
    if not storage.exists(summary):
        query_list.check_stated(config)
        steps = Steps(_working_folder(config, uri), progress)
        counted = _count(config, candidates, steps)
        started = time.time()
        queries = query_list.build(config, counted)
        query_list.write(queries, storage.join(uri, query_list.FILE))
        work = [*steps.intervals(), (started, time.time())]
        storage.write_json(summary, {"content": _content(queries, counted), "work": work})
    storage.remove_folder(storage.join(uri, "work"))
    built = storage.read_json(summary)
    return StageOutput(
        built["content"], [(float(start), float(end)) for start, end in built["work"]]
    )


def _working_folder(config: QueriesConfig, uri: str) -> str:
    """Another cut into partitions and buckets must not find this one's files."""
    cut = fingerprint(config.execution.model_dump(mode="json"))
    return storage.join(uri, "work", cut[:12])


def _count(
    config: QueriesConfig, candidates: SourceConfig | None, steps: Steps
) -> dict[str, Counted]:
    named, found = config.named_sources(), {}
    captions = {n: s for n, s in named.items() if isinstance(s, CaptionsSource)}
    if captions and candidates is None:
        raise ConfigError("a source of type captions needs candidates; add them to the run file")
    if captions and candidates is not None:
        found |= count_captions.count(captions, config, candidates, steps)
    dumps: dict[str, dict[str, count_dumps.WikipediaSource]] = {}
    for name, source in named.items():
        if isinstance(source, WikipediaWordsSource | WikipediaBigramsSource):
            dumps.setdefault(source.path, {})[name] = source
        elif isinstance(source, PageViewsSource):
            found[name] = count_views.count(name, source, config.execution, steps)
    for number, wanted in enumerate(dumps.values()):
        found |= count_dumps.count(f"dumps-{number}", wanted, config, steps)
    return found


def _content(queries: QueryList, counted: Mapping[str, Counted]) -> dict[str, Any]:
    damage = {line for each in counted.values() for line in each.damage}
    return {
        "file": query_list.FILE,
        "num_queries": queries.table.num_rows,
        "fingerprint": queries.fingerprint,
        "admitted": queries.admitted,
        "left_out": queries.left_out,
        "counted": {name: each.facts for name, each in counted.items() if each.facts},
        "damage": sorted(damage),
    }


def _paths(source: QuerySource) -> list[str]:
    """The files that a source reads.

    Raises:
        ConfigError: There are none.
    """
    if isinstance(source, WikipediaWordsSource | WikipediaBigramsSource):
        return wikipedia.dump_paths(source.path)
    if isinstance(source, PageViewsSource):
        return page_views.view_paths(source)
    if isinstance(source, WordnetSource):
        return wordnet.data_files(source.path)
    return files.expand(source.path, query_files.ENDINGS) if isinstance(source, ListSource) else []
