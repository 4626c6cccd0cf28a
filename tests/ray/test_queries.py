"""The query list from dumps, page views and captions on a real local Ray."""

import io
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from pipeline import steps
from pipeline.candidates.config import UrlTableConfig
from pipeline.progress import Progress
from pipeline.queries import count_dumps
from pipeline.queries.build import build_queries
from pipeline.queries.config import QueriesConfig
from pipeline.runtime import RayConfig, prepare_environment, ray_session
from tests import wikipedia_dump
from tests.wikipedia_dump import PAGES, PAIRS, WORDS, Page, long_article, write_views

# Ray warns of its own deprecations, which nobody here can mend.
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder():
    """Two whole dumps, a cut one, page views and captions; Ray is open."""
    prepare_environment()
    with (
        tempfile.TemporaryDirectory(prefix="uq") as name,
        ray_session(RayConfig(num_cpus=4)),
    ):
        folder = Path(name)
        rng = random.Random(1)
        pages = [Page(f"Page {number}", long_article(rng, 3)) for number in range(24)]
        (folder / "dumps").mkdir()
        wikipedia_dump.write_multistream(folder / "dumps/a-multistream.xml.bz2", pages[:12], 3)
        wikipedia_dump.write_plain(folder / "dumps/b.xml", PAGES)
        cut = wikipedia_dump.write_unaligned(folder / "dumps/c.xml.bz2", pages[12:], 4000)
        cut.write_bytes(cut.read_bytes()[:-3000])
        for hour in range(5):
            lines = [f"en Title_{number} {number + hour} 0" for number in range(40)]
            write_views(folder / f"pageviews-{hour}.gz", lines)
        captions = [f"a {rng.choice(['red', 'blue'])} cat {number % 7}" for number in range(60)]
        rows = "".join(f"http://x.example/{n}\t{text}\n" for n, text in enumerate(captions))
        (folder / "a.tsv").write_text(f"url\tcaption\n{rows}")
        yield folder


def config(folder, **execution):
    dumps = {"path": str(folder / "dumps"), "execution": {"max_damaged_share": 0.5}}
    rule = {"type": "npmi", "min_npmi": 0.3, "min_count": 2}
    views = {"paths": [f"{folder}/pageviews-*.gz"], "projects": ["en"], "min_views": 30}
    return QueriesConfig.model_validate(
        {
            "profile": "normalised",
            "order": "clip",
            "sources": [
                {"type": "page_views", "min_views_per_file": 3, **views},
                {"type": "wikipedia_bigrams", "rule": rule, **dumps},
                {"type": "wikipedia_words", "min_count": 3, **dumps},
                {"type": "captions", "max_words": 2, "min_count": 3},
                {"type": "numbers"},
            ],
            "execution": execution,
        }
    )


def build(folder, name, **execution):
    """The bytes of the list, and the stage's content."""
    candidates = UrlTableConfig(type="url_table", path=str(folder / "a.tsv"))
    uri = folder / name
    progress = Progress(io.StringIO())
    output = build_queries(config(folder, **execution), candidates, str(uri), progress)
    assert output.work
    return (uri / "queries.parquet").read_bytes(), output.content


@pytest.fixture(scope="module")
def whole(folder):
    return build(folder, "whole")


def test_four_workers_and_any_cut_give_the_same_bytes(folder, whole):
    content = whole[1]
    assert all(content["admitted"][name] > 0 for name in config(folder).named_sources())
    assert content["counted"]["3-wikipedia_bigrams"]["damaged_files"] == ["c.xml.bz2"]
    assert len(content["damage"]) == 1
    small = {"partition_bytes": 3000, "num_buckets": 7, "max_entries": 500}
    assert build(folder, "small", **small) == whole


def test_one_worker_gives_the_same_bytes(folder, whole, monkeypatch):
    monkeypatch.setattr(steps, "map_partitions", lambda work, rows: map(work, reversed(rows)))
    cut = {"partition_bytes": 9000, "num_buckets": 3, "max_entries": 2000}
    assert build(folder, "one", **cut) == whole


def test_a_killed_worker_changes_no_byte(folder, whole, monkeypatch):
    flag = folder / "killed"

    def dying(row, **settings):
        from pipeline.queries import count_dumps  # as it stands in the worker

        if row["number"] == 1 and not flag.exists():
            flag.touch()
            os.environ["FAIL_AT"] = "storage.before_rename:2"
        return count_dumps._count_partition(row, **settings)

    monkeypatch.setattr(count_dumps, "_count_partition", dying)
    assert build(folder, "killed-once", partition_bytes=8000) == whole
    assert flag.exists()


def test_a_run_file_may_hold_queries_alone(folder):
    import ray

    path = str(folder / "dumps" / "b.xml")
    rule = {"type": "npmi", "min_npmi": -0.9, "min_count": 1}
    queries = {
        "profile": "normalised",
        "sources": [
            {"type": "wikipedia_words", "path": path, "min_count": 1},
            {"type": "wikipedia_bigrams", "path": path, "rule": rule},
        ],
    }
    run = {"name": "words", "output_dir": str(folder / "run"), "queries": queries}
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    command = [sys.executable, "-m", "jobs.queries", "--config", str(folder / "run.yaml")]
    address = ray.get_runtime_context().gcs_address
    environment = {**os.environ, "RAY_ADDRESS": address}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout.splitlines()[-1])
    (found,) = (folder / "run").glob("queries/*/queries.parquet")
    expected = WORDS["normalised"] | PAIRS["normalised"]
    table = pq.read_table(found).to_pydict()
    assert dict(zip(table["query"], table["weight"], strict=True)) == expected
    assert not (folder / "run" / "web").exists()
