"""One way in for every kind of source: plan its partitions, read one, name its files.

A partition is a small JSON-able mapping that one task reads::

    {"type": "url_table", "path": "…/a.parquet", "row_groups": [0, 4], "num_rows": 40000}
    {"type": "url_table", "path": "…/b.csv.gz", "row_groups": [], "num_rows": None}
    {"type": "warc", "path": "…/c.warc.gz"}

Its position in the plan is its name; the same files give the same plan.
"""

from typing import Any

from pipeline import identity as identities
from pipeline.candidates import common_crawl, url_tables
from pipeline.candidates.config import UrlTableConfig, WarcConfig
from pipeline.candidates.rows import Candidates


def plan(config: UrlTableConfig | WarcConfig) -> list[dict[str, Any]]:
    """The partitions of a source, in a fixed order; checks paths and column names.

    Raises:
        ConfigError: A path, a table or a column name is wrong.
    """
    if isinstance(config, UrlTableConfig):
        return url_tables.plan(config)
    return common_crawl.plan(config)


def read(config: UrlTableConfig | WarcConfig, partition: dict[str, Any]) -> Candidates:
    """The candidates of one partition, what was dropped and what is damaged."""
    if isinstance(config, UrlTableConfig):
        return url_tables.read(config, partition)
    return common_crawl.read(config, partition)


def identity(config: UrlTableConfig | WarcConfig) -> dict[str, Any]:
    """What the source is: every file's name, length and hash, wherever the files lie.

    Reads every file once (both ends of files over 1 GiB).
    """
    paths = sorted({str(partition["path"]) for partition in plan(config)})
    return {"files": [identities.file_identity(path) for path in paths]}
