"""Word sequences of the candidates' captions, counted once per caption.

A sequence does not cross a sign: ``a cat, asleep`` holds ``a cat`` and not ``cat asleep``.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice

from pipeline import storage
from pipeline.candidates import schema, sources
from pipeline.candidates.config import SourceConfig
from pipeline.partitions import Row
from pipeline.queries import merging
from pipeline.queries.config import CaptionsSource, Profile, QueriesConfig, QueriesExecution
from pipeline.queries.counted import Counted
from pipeline.queries.matching import caption_form
from pipeline.queries.merging import Partials
from pipeline.queries.partial_counts import Buckets, Spill
from pipeline.queries.words import has_letter_or_digit
from pipeline.steps import Steps


def count(
    wanted: Mapping[str, CaptionsSource],
    config: QueriesConfig,
    candidates: SourceConfig,
    steps: Steps,
) -> dict[str, Counted]:
    """Count the captions once for all sources of this kind; by the sources' names."""
    task = partial(
        _count_partition,
        candidates=candidates,
        max_words=max(source.max_words for source in wanted.values()),
        profile=config.profile,
        execution=config.execution,
        folder=steps.file("captions"),
    )
    rows = [{"partition": part} for part in sources.plan(candidates)]
    partials = Partials.of(steps.run("count-captions", task, rows))
    max_rows = config.execution.max_entries
    found = {}
    for name, source in wanted.items():
        judge = partial(
            merging.judge_counts, min_count=source.min_count, max_words=source.max_words
        )
        found[name] = merging.merge(steps, name, partials, judge, max_rows)
    return found


def sequences(words: Sequence[str], max_words: int) -> set[str]:
    """Every sequence of 1 to ``max_words`` words without a sign among them, once."""
    found: set[str] = set()
    for first in range(len(words)):
        sequence = ""
        for word in islice(words, first, first + max_words):
            if not has_letter_or_digit(word):
                break
            sequence = f"{sequence} {word}" if sequence else word
            found.add(sequence)
    return found


def _count_partition(
    row: Row,
    candidates: SourceConfig,
    max_words: int,
    profile: Profile,
    execution: QueriesExecution,
    folder: str,
) -> Row:
    captions = sources.read(candidates, row["partition"]).table.column(schema.CAPTION)
    form, counts = caption_form(profile), Counter()
    with Spill(execution) as spill:
        for caption in captions.to_pylist():
            counts.update(sequences(form(caption).split(" "), max_words))
            if len(counts) >= execution.max_entries:
                spill.add(Buckets.of_counter(counts, execution.num_buckets))
                counts.clear()
        uri = storage.join(folder, f"{row['number']:06d}.parquet")
        rows = spill.publish(uri, Buckets.of_counter(counts, execution.num_buckets))
    return {"uri": uri, "rows": rows}
