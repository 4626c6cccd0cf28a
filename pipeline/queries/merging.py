"""From partial counts to the queries of one source that pass its rule.

===========  ======================================================================================
step         from → to
===========  ======================================================================================
merge        a few buckets of all partitions → of their sums, what passes
total        the same → their sums, in buckets again: the words that pairs are judged by
join first   buckets of pairs of words → pairs with their first words' counts, by their second words
join second  buckets of those → pairs that pass
===========  ======================================================================================

The driver sees the results of tasks, small JSON mappings, and in the end the queries that passed.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest

import pyarrow as pa

from pipeline import storage
from pipeline.candidates import schema
from pipeline.partitions import Row
from pipeline.queries import collocations, partial_counts
from pipeline.queries.collocations import BELOW_MIN_COUNT
from pipeline.queries.config import NpmiRule, PmiRule
from pipeline.queries.counted import Counted
from pipeline.queries.partial_counts import Buckets
from pipeline.steps import Steps

Judge = Callable[[pa.Table], tuple[pa.Table, Counter[str]]]
"""Sums of a bucket → those that pass, and how many do not, by reason."""


@dataclass(frozen=True)
class Partials:
    """The partial files of what was counted together."""

    uris: list[str]
    num_rows: list[int]
    """Rows of each bucket, over all files."""

    @classmethod
    def of(cls, written: Sequence[Row]) -> "Partials":
        """From files (``uri``) and the rows of their buckets (``rows``)."""
        rows = zip(*(each["rows"] for each in written), strict=True)
        return cls([each["uri"] for each in written], [sum(each) for each in rows])

    def tasks(self, max_rows: int, beside: Sequence[int] = ()) -> list[Row]:
        """Neighbouring buckets, a task each.

        Args:
            max_rows: Rows that a task reads, unless a single bucket has more.
            beside: Rows of each bucket that a task reads beside these.
        """
        num_rows = [sum(each) for each in zip_longest(self.num_rows, beside, fillvalue=0)]
        ranges = partial_counts.bucket_ranges(num_rows, max_rows)
        return [{"first": first, "last": last} for first, last in ranges]

    def merged(self, row: Row, max_rows: int) -> pa.Table:
        """The sums of a task's buckets."""
        return partial_counts.merged(self.uris, row["first"], row["last"], max_rows)


@dataclass(frozen=True)
class PairJudge:
    """Whether two words belong together, told by a rule and by how often each stands alone."""

    rule: PmiRule | NpmiRule
    words: Partials
    """Sums of all words, in the same buckets as the pairs."""
    num_words: int
    """Words in the corpus, repetitions included."""


def merge(steps: Steps, name: str, partials: Partials, judge: Judge, max_rows: int) -> Counted:
    """Add up partial counts and keep what passes.

    Args:
        steps: Runs the tasks.
        name: Of the source, for its files and its progress.
        partials: What to add up.
        judge: What passes.
        max_rows: Rows that a task holds, about.
    """
    if not partials.uris:
        return Counted(schema.NGRAM_COUNTS.empty_table())
    folder = steps.file("passed", name)
    task = partial(_merge, partials=partials, judge=judge, max_rows=max_rows, folder=folder)
    return _passed(steps.run(f"merge-{name}", task, partials.tasks(max_rows)))


def total(steps: Steps, name: str, partials: Partials, max_rows: int) -> Partials:
    """Add up partial counts and keep all sums; the parameters are those of ``merge``."""
    folder = steps.file("totals", name)
    task = partial(_total, partials=partials, max_rows=max_rows, folder=folder)
    return Partials.of(steps.run(f"total-{name}", task, partials.tasks(max_rows)))


def join(steps: Steps, name: str, partials: Partials, judge: PairJudge, max_rows: int) -> Counted:
    """Keep the pairs of words that belong together.

    Args:
        steps: Runs the tasks.
        name: Of the source, for its files and its progress.
        partials: Counts of pairs, by the bucket of their first word.
        judge: What passes.
        max_rows: Rows that a task holds, about.
    """
    beside = judge.words.num_rows
    folder = steps.file("joined", name)
    task = partial(_join_first, partials=partials, judge=judge, max_rows=max_rows, folder=folder)
    firsts = steps.run(f"join-first-{name}", task, partials.tasks(max_rows, beside))
    joined = Partials.of(firsts)
    folder = steps.file("passed", name)
    task = partial(_join_second, partials=joined, judge=judge, max_rows=max_rows, folder=folder)
    seconds = steps.run(f"join-second-{name}", task, joined.tasks(max_rows, beside))
    passed = _passed(seconds)
    return replace(passed, left_out=_sum([passed.left_out, *(r["left_out"] for r in firsts)]))


def judge_counts(
    table: pa.Table, min_count: int, max_words: int | None = None
) -> tuple[pa.Table, Counter[str]]:
    """What was counted often enough; sequences of more than ``max_words`` are no question here."""
    if max_words is not None:
        blanks = [text.count(" ") for text in table.column(schema.NGRAM).to_pylist()]
        table = table.filter(pa.array([num < max_words for num in blanks], pa.bool_()))
    kept = partial_counts.at_least(table, min_count)
    return kept, Counter({BELOW_MIN_COUNT: table.num_rows - kept.num_rows})


def _merge(row: Row, partials: Partials, judge: Judge, max_rows: int, folder: str) -> Row:
    return _published(*judge(partials.merged(row, max_rows)), row, folder)


def _total(row: Row, partials: Partials, max_rows: int, folder: str) -> Row:
    table = partials.merged(row, max_rows)
    return _written(
        Buckets.of(table, table.column(schema.NGRAM), len(partials.num_rows)), row, folder
    )


def _join_first(row: Row, partials: Partials, judge: PairJudge, max_rows: int, folder: str) -> Row:
    pairs, words = partials.merged(row, max_rows), judge.words.merged(row, max_rows)
    near, left_out = collocations.with_first(pairs, words, judge.rule, judge.num_words)
    buckets = Buckets.of(near, collocations.word(near, 1), len(partials.num_rows))
    return {**_written(buckets, row, folder), "left_out": left_out}


def _join_second(row: Row, partials: Partials, judge: PairJudge, max_rows: int, folder: str) -> Row:
    # Every pair was in one task of the first join, so there is nothing to add up.
    first, last = row["first"], row["last"]
    near = pa.concat_tables([partial_counts.read(uri, first, last) for uri in partials.uris])
    words = judge.words.merged(row, max_rows)
    passing = collocations.passing(near, words, judge.rule, judge.num_words)
    return _published(*passing, row, folder)


def _written(buckets: Buckets, row: Row, folder: str) -> Row:
    uri = storage.join(folder, f"{row['number']:06d}.parquet")
    return {"uri": uri, "rows": partial_counts.write(uri, buckets)}


def _published(kept: pa.Table, left_out: Counter[str], row: Row, folder: str) -> Row:
    uri = storage.join(folder, f"{row['number']:06d}.parquet")
    partial_counts.write(uri, Buckets.of(kept, kept.column(schema.NGRAM), 1))
    return {"uri": uri, "left_out": left_out}


def _passed(results: Sequence[Row]) -> Counted:
    """All that passed; the tasks' tables hold one bucket each."""
    table = pa.concat_tables([partial_counts.read(each["uri"], 0, 1) for each in results])
    return Counted(table.sort_by(schema.NGRAM), _sum(each["left_out"] for each in results))


def _sum(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    left_out: Counter[str] = Counter()
    for part in parts:
        left_out.update(part)
    return {reason: num for reason, num in sorted(left_out.items()) if num}
