"""Views of a wiki's titles over all page-view files."""

from collections import Counter
from functools import partial

from pipeline import storage
from pipeline.errors import DataError
from pipeline.partitions import Row
from pipeline.queries import merging, page_views
from pipeline.queries.config import PageViewsSource, QueriesExecution
from pipeline.queries.counted import Counted, damage_lines, file_facts
from pipeline.queries.merging import Partials
from pipeline.queries.partial_counts import Buckets, Spill, at_least
from pipeline.steps import Steps


def count(name: str, source: PageViewsSource, execution: QueriesExecution, steps: Steps) -> Counted:
    """Count a source's files.

    Args:
        name: Of the source.
        source: Files, projects and limits.
        execution: How much a task may hold.
        steps: Runs the tasks.

    Raises:
        ConfigError: A path is wrong.
        DataError: Too many files are damaged, or none has a line of the projects.
    """
    task = partial(_count_file, source=source, execution=execution, folder=steps.file(name))
    rows = [{"path": path} for path in page_views.view_paths(source)]
    done = steps.run(f"count-{name}", task, rows)
    facts = file_facts({name: source}, done)
    facts["lines"] = sum(each["num_lines"] for each in done)
    facts["malformed_lines"] = sum(each["malformed_lines"] for each in done)
    if facts["lines"] == 0:
        raise DataError(
            f"source {name}: none of {len(rows)} files has a line of the projects "
            f"{', '.join(source.projects)}; correct projects or paths"
        )
    judge = partial(page_views.judge, source=source)
    counted = merging.merge(steps, name, Partials.of(done), judge, execution.max_entries)
    return counted.met(facts, damage_lines(done))


def _count_file(row: Row, source: PageViewsSource, execution: QueriesExecution, folder: str) -> Row:
    reading, counts = page_views.Reading(), Counter()
    with Spill(execution) as spill:
        for title, num_views in page_views.views(row["path"], source.projects, reading):
            counts[title] += num_views
            if len(counts) >= execution.max_entries:
                spill.add(Buckets.of_counter(counts, execution.num_buckets))
                counts.clear()
        uri = storage.join(folder, f"{row['number']:06d}.parquet")
        rest = Buckets.of_counter(counts, execution.num_buckets)
        rows = spill.publish(uri, rest, partial(at_least, num=source.min_views_per_file))
    return {
        "path": row["path"],
        "num_lines": reading.num_lines,
        "malformed_lines": reading.malformed_lines,
        "damage": reading.damage,
        "uri": uri,
        "rows": rows,
    }
