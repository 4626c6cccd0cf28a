"""Words and pairs of words in Wikipedia's dumps: one reading serves all sources of one path."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from pipeline import storage
from pipeline.partitions import Row
from pipeline.queries import merging, wikipedia
from pipeline.queries.config import (
    Profile,
    QueriesConfig,
    QueriesExecution,
    WikipediaBigramsSource,
    WikipediaWordsSource,
)
from pipeline.queries.counted import Counted, damage_lines, file_facts
from pipeline.queries.merging import PairJudge, Partials
from pipeline.queries.partial_counts import Spill
from pipeline.queries.wikitext import plain_text
from pipeline.queries.words import WordCounter
from pipeline.steps import Steps

WikipediaSource = WikipediaWordsSource | WikipediaBigramsSource


def count(
    corpus: str, wanted: Mapping[str, WikipediaSource], config: QueriesConfig, steps: Steps
) -> dict[str, Counted]:
    """Count the dumps behind one path; by the sources' names.

    Args:
        corpus: Name for working files.
        wanted: The sources with this path.
        config: Profile and execution.
        steps: Runs the tasks.

    Raises:
        ConfigError: The path is wrong.
        DataError: Too many of its files are damaged.
    """
    path = next(iter(wanted.values())).path
    task = partial(
        _count_partition,
        profile=config.profile,
        with_bigrams=any(isinstance(s, WikipediaBigramsSource) for s in wanted.values()),
        execution=config.execution,
        folder=steps.file(corpus),
    )
    rows = wikipedia.plan(path, config.execution.partition_bytes)
    done = steps.run(f"count-{corpus}", task, rows)
    facts = file_facts(wanted, done)
    pages: Counter[str] = Counter()
    for each in done:
        pages.update(each["pages"])
    num_words = sum(each["num_words"] for each in done)
    facts |= {"pages": dict(sorted(pages.items())), "num_words": num_words}
    found = _merged(corpus, wanted, done, num_words, config.execution.max_entries, steps)
    return {name: counted.met(facts, damage_lines(done)) for name, counted in found.items()}


def _merged(
    corpus: str,
    wanted: Mapping[str, WikipediaSource],
    done: Sequence[Row],
    num_words: int,
    max_rows: int,
    steps: Steps,
) -> dict[str, Counted]:
    of_words = Partials.of([each["words"] for each in done])
    of_pairs = Partials.of([each["pairs"] for each in done])
    if any(isinstance(source, WikipediaBigramsSource) for source in wanted.values()):
        of_words = merging.total(steps, corpus, of_words, max_rows)
    found: dict[str, Counted] = {}
    for name, source in wanted.items():
        if isinstance(source, WikipediaBigramsSource):
            judge = PairJudge(source.rule, of_words, num_words)
            found[name] = merging.join(steps, name, of_pairs, judge, max_rows)
        else:
            judge = partial(merging.judge_counts, min_count=source.min_count)
            found[name] = merging.merge(steps, name, of_words, judge, max_rows)
    return found


def _count_partition(
    row: Row, profile: Profile, with_bigrams: bool, execution: QueriesExecution, folder: str
) -> Row:
    reading, counter = wikipedia.Reading(), WordCounter(profile, with_bigrams)
    namespaces, num_buckets = wikipedia.namespaces(row["path"]), execution.num_buckets
    with Spill(execution) as words, Spill(execution) as pairs:
        for text in wikipedia.articles(row, reading):
            counter.add(plain_text(text, namespaces))
            if counter.num_entries >= execution.max_entries:
                for spill, held in zip((words, pairs), counter.take(num_buckets), strict=True):
                    spill.add(held)
        files = {}
        rest = counter.take(num_buckets)
        for kind, spill, held in zip(("words", "pairs"), (words, pairs), rest, strict=True):
            uri = storage.join(folder, kind, f"{row['number']:06d}.parquet")
            files[kind] = {"uri": uri, "rows": spill.publish(uri, held)}
    return {
        "path": row["path"],
        "pages": reading.pages,
        "damage": reading.damage,
        "num_words": counter.num_words,
        **files,
    }
