"""Further passes, the ledger of opt-outs, earlier crawls: whole curations against real servers.

Steps run one after the other in this process; Ray adds nothing to what is tested here.
"""

import csv
import hashlib
import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import steps, storage
from pipeline.candidates import urls
from pipeline.candidates.config import UrlTableConfig
from pipeline.curation import balance as balance_stage
from pipeline.curation import curate as curate_stage
from pipeline.curation import exchange, memory
from pipeline.curation.config import BalanceStageConfig, CurateConfig
from pipeline.curation.passes import JoinedFiles
from pipeline.errors import ConfigError, DataError
from pipeline.images.fetch import Target
from pipeline.progress import Progress
from pipeline.queries import query_list
from pipeline.queries.config import QueriesConfig
from pipeline.results import publish_result
from pipeline.shards.reader import open_dataset
from tests.fault_server import PICTURE, FaultServer

LIMITS = {
    "mode": "cap",
    "per_query_limit": 100,
    "seed": 1,
    "captions": {"max_repeats": 100},
    "num_buckets": 2,
}


@pytest.fixture(scope="module")
def running():
    with FaultServer() as server:
        yield server


class Curation:
    """A folder with a query list, and a way to curate tables of addresses."""

    def __init__(self, folder, server):
        self.folder, self.server = folder, server
        (folder / "list.json").write_text(json.dumps(["picture"]))
        source = {"type": "list", "path": str(folder / "list.json")}
        queries = QueriesConfig.model_validate({"sources": [source], "profile": "normalised"})
        uri = str(folder / "queries")
        query_list.write(query_list.build(queries, None), storage.join(uri, "queries.parquet"))
        self.queries = published(uri, "queries", queries.model_dump(mode="json"), {})

    def run(self, name, addresses, columns=(), **crawl):
        """Curate ``(address, *values of columns)`` rows; what the crawl logged, by address."""
        table = self.folder / f"{name}.csv"
        with table.open("w", newline="") as file:
            rows = [
                [url, f"picture {index}", *more] for index, (url, *more) in enumerate(addresses)
            ]
            csv.writer(file).writerows([("url", "caption", *columns), *rows])
        source = UrlTableConfig(type="url_table", path=str(table), carried_columns=tuple(columns))
        balanced_uri, progress = str(self.folder / f"{name}-balance"), Progress(io.StringIO())
        limits = BalanceStageConfig.model_validate(LIMITS | crawl.pop("limits", {}))
        output = balance_stage.balance(limits, source, self.queries, balanced_uri, progress)
        balanced = published(balanced_uri, "balance", {}, output.content)
        config = CurateConfig.model_validate(
            {
                "crawl": self.server.config(**crawl).model_dump(),
                "filters": {"min_side_px": 8},
                "shards": {"samples_per_shard": 50, "views_px": [16]},
                # Every picture of the server looks like another one.
                "dedup": {"max_hamming": 0, "max_colour_difference": 0},
            }
        )
        uri = str(self.folder / name)
        said = self.said = io.StringIO()
        output = curate_stage.curate(config, source, balanced, uri, Progress(said))
        published(uri, "curate", {}, output.content)
        return output.content

    def log(self, name):
        rows = pq.read_table(str(self.folder / name / "crawl_log")).to_pylist()
        assert len({row["key"] for row in rows}) == len(rows)
        return {row["url"]: row for row in rows}

    def files(self, name):
        found = [
            path
            for part in ("shards", "views")
            for path in sorted((self.folder / name / part).rglob("*"))
            if path.is_file()
        ]
        return {str(path.relative_to(self.folder / name)): path.read_bytes() for path in found}


def published(uri, stage, config, content):
    return publish_result(
        uri, stage=stage, identity="x", config=config, inputs={}, content=content, circumstance={}
    )


@pytest.fixture
def world(running, tmp_path, monkeypatch):
    running.reset()
    monkeypatch.setattr(steps, "map_partitions", lambda work, rows: map(work, rows))
    return Curation(tmp_path, running)


def changing(*numbers, site="a"):
    """Addresses that give different pictures."""
    return [f"http://{site}.example/colour/{number}.jpg" for number in numbers]


def test_a_further_pass_asks_for_what_may_pass_and_for_nothing_else(world):
    good = changing(1, 2, 3) + changing(4, 5, site="b")
    bad = [f"http://a.example/{name}.jpg" for name in ("gone", "noai", "page", "loop")]
    flaky = ["http://a.example/failing/2.jpg", "http://b.example/failing/2.jpg"]
    addresses = [(url,) for url in [*good, *bad, *flaky, "http://b.example/error.jpg"]]
    content = world.run("flaky", addresses, num_retries=0, num_passes=4)
    assert content["funnel"]["dropped"] == {
        "exact_duplicate": 1,
        "http_error": 2,
        "opted_out_image": 1,
        "too_many_redirects": 1,
        "wrong_content_type": 1,
    }
    requests = [f"http://{each['host']}{each['path']}" for each in world.server.requests]
    counts = {url: requests.count(url) for (url,) in addresses}
    assert {url: n for url, n in counts.items() if n > 1} == {
        "http://a.example/loop.jpg": 6,
        "http://a.example/failing/2.jpg": 3,
        "http://b.example/failing/2.jpg": 3,
        "http://b.example/error.jpg": 4,
    }
    log = world.log("flaky")
    assert log["http://a.example/failing/2.jpg"]["attempts"] == 3
    assert log["http://a.example/failing/2.jpg"]["drop_reason"] is None
    assert log["http://b.example/error.jpg"]["attempts"] == 4
    assert log["http://a.example/gone.jpg"]["attempts"] == 1


def test_what_comes_in_a_later_pass_lies_where_it_would_have_lain_in_the_first(world):
    fails = [f"http://{site}.example/failing/1.jpg" for site in ("a", "b")]
    addresses = [(url,) for url in [*changing(*range(8)), *changing(9, 10, site="b"), *fails]]
    world.run("late", addresses, num_retries=0)
    late = {row["attempts"] for row in world.log("late").values()}
    world.run("soon", addresses, num_retries=2)
    assert late == {1, 2}
    assert len(list(open_dataset(str(world.folder / "late")))) == 11  # two are one picture
    assert world.files("late") == world.files("soon")


def test_a_run_that_stops_after_a_further_pass_goes_on_without_a_request(world, monkeypatch):
    fails = [f"http://{site}.example/failing/1.jpg" for site in ("a", "b")]
    addresses = [(url,) for url in [*changing(*range(4)), *fails]]

    def stopping(plan):
        raise DataError("the test stops this run")

    with monkeypatch.context() as patch:
        patch.setattr(curate_stage, "judge", stopping)
        with pytest.raises(DataError, match="the test stops"):
            world.run("stopped", addresses, num_retries=0)
    world.server.requests.clear()
    world.run("stopped", addresses, num_retries=0)
    assert world.server.requests == []
    world.run("whole", addresses, num_retries=2)
    assert world.files("stopped") == world.files("whole")


def test_without_a_further_pass_what_failed_stays_failed(world):
    addresses = [(url,) for url in [*changing(1), "http://a.example/failing/1.jpg"]]
    content = world.run("once", addresses, num_retries=0, num_passes=1)
    assert content["funnel"]["dropped"] == {"http_error": 1}


def test_a_host_that_asked_for_a_long_pause_is_not_asked_by_a_later_pass(world):
    addresses = [(url,) for url in [*changing(1, site="b"), "http://a.example/later.jpg"]]
    content = world.run("paused", addresses, num_passes=3)
    assert content["funnel"]["dropped"] == {"host_busy": 1}
    assert len(world.server.seen("/later.jpg")) == 1
    assert world.log("paused")["http://a.example/later.jpg"]["retry_at_s"] is not None


def test_what_opted_out_is_never_asked_for_again_by_any_run_with_the_ledger(world, monkeypatch):
    refused = ["http://a.example/noai.jpg", "http://a.example/reserved.jpg",
               "http://partly.example/good.jpg"]  # fmt: skip
    addresses = [(url,) for url in [*changing(1), *refused]]
    ledger = {"opt_out_ledger": str(world.folder / "ledger")}
    dropped = {"opted_out_image": 2, "opted_out_site": 1}
    assert world.run("first", addresses, execution=ledger)["funnel"]["dropped"] == dropped
    assert len(world.server.seen("/noai.jpg")) == 1
    world.server.requests.clear()
    content = world.run("second", [*addresses, *((url,) for url in changing(2))], execution=ledger)
    assert content["funnel"]["dropped"] == dropped
    asked = {each["path"] for each in world.server.requests}
    assert asked == {"/robots.txt", "/.well-known/tdmrep.json", "/colour/1.jpg", "/colour/2.jpg"}
    assert {row["attempts"] for url, row in world.log("second").items() if url in refused} == {0}
    # Portions of one table each, and another number of buckets, change nothing.
    monkeypatch.setattr(memory, "FILES_PER_TASK", 1)
    world.server.requests.clear()
    cut = {"num_buckets": 5}
    assert (
        world.run("third", addresses, execution=ledger, limits=cut)["funnel"]["dropped"] == dropped
    )
    assert {each["path"] for each in world.server.requests} <= asked
    # What was not asked for adds nothing to the ledger.
    rows = pq.read_table(str(world.folder / "ledger")).to_pylist()
    assert sorted(row["url"] for row in rows) == sorted(refused)


def test_a_later_crawl_re_checks_by_etag_and_fetches_only_what_is_new(world):
    old = [*changing(1, 2), "http://b.example/tagged.jpg", "http://a.example/gone.jpg",
           "http://b.example/error.jpg"]  # fmt: skip
    world.run("first", [(url,) for url in old], num_retries=0, num_passes=1)
    world.server.requests.clear()
    new = changing(3)
    crawl = {"earlier_crawls": [str(world.folder / "first")], "num_retries": 0, "num_passes": 1}
    content = world.run("second", [(url,) for url in [*old, *new]], **crawl)
    assert content["funnel"]["kept"] == 1
    assert content["funnel"]["dropped"] == {"http_error": 2, "unchanged": 3}
    log = world.log("second")
    assert log["http://b.example/tagged.jpg"]["status"] == 304
    assert world.server.seen("/gone.jpg") == []
    assert len(world.server.seen("/error.jpg")) == 1
    assert [sample.metadata["url"] for sample in open_dataset(str(world.folder / "second"))] == new
    # The second crawl stands for both: a third one need not name the first.
    world.server.requests.clear()
    crawl["earlier_crawls"] = [str(world.folder / "second")]
    with pytest.raises(DataError, match="unchanged"):
        world.run("third", [(url,) for url in [*old, *new]], **crawl)
    assert world.server.seen("/tagged.jpg")[0]["etag"] == '"v1"'


def test_a_sha256_that_the_source_states_is_compared(world):
    right, wrong = hashlib.sha256(PICTURE).hexdigest().upper(), "0" * 64
    addresses = [("http://a.example/good/1.jpg", right), ("http://a.example/good/2.jpg", wrong),
                 (*changing(1), "")]  # fmt: skip
    content = world.run("given", addresses, ["sha256"], sha256_column="sha256")
    assert content["funnel"]["dropped"] == {"sha256_mismatch": 1}
    assert world.log("given")["http://a.example/good/2.jpg"]["sha256"] == right.lower()
    with pytest.raises(ConfigError, match=r"sha256_column='md5' is not among .* \(sha256\)"):
        world.run("misnamed", addresses, ["sha256"], sha256_column="md5")


def test_hosts_too_large_for_the_crawl_are_reported_with_what_was_left_out(world):
    addresses = [(url,) for url in [*changing(*range(12)), *changing(20, 21, site="b")]]
    content = world.run("large", addresses, per_host_budget=14)
    assert content["left_out"] == {"a.example": 7}
    assert content["funnel"]["dropped"] == {"over_host_budget": 7}
    assert len(world.server.asked_of("a.example")) == 7
    kept = {sample.metadata["url"] for sample in open_dataset(str(world.folder / "large"))}
    in_order = sorted(changing(*range(12)), key=urls.url_id)
    assert kept == {*in_order[:5], *changing(20, 21, site="b")}
    assert "left out 7 pictures of 1 hosts" in world.said.getvalue()
    assert "balance.max_pictures_per_host=5" in world.said.getvalue()
    # Fed back, they are no longer counted on.
    content = world.run(
        "fed_back", addresses, per_host_budget=14, limits={"max_pictures_per_host": 5}
    )
    assert content["left_out"] == {}
    assert content["funnel"]["dropped"] == {"over_host_limit": 7}
    assert world.files("fed_back") == world.files("large")


def test_an_earlier_crawl_that_is_none_is_refused_before_any_request(world):
    with pytest.raises(ConfigError, match=r"nowhere holds no crawl_log; name the folder"):
        world.run("refused", [(url,) for url in changing(1)],
                  earlier_crawls=[str(world.folder / "nowhere")])  # fmt: skip
    assert world.server.requests == []


def test_a_crawl_log_of_another_version_is_refused_by_name(world):
    world.run("first", [(url,) for url in changing(1)])
    file = world.folder / "first" / "crawl_log" / "00000.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["transient"]), file)
    with pytest.raises(DataError, match=r"00000\.parquet lacks columns of a crawl log"):
        world.run("second", [(url,) for url in changing(1)],
                  earlier_crawls=[str(world.folder / "first")])  # fmt: skip


def test_joined_files_read_as_one():
    joined = JoinedFiles([io.BytesIO(b"abc"), io.BytesIO(b""), io.BytesIO(b"defg")], [3, 0, 4])
    found = []
    for offset, length in ((0, 3), (3, 4), (4, 2), (1, 1)):
        joined.seek(offset)
        found.append(joined.read(length))
    assert found == [b"abc", b"defg", b"ef", b"b"]


def test_a_ledger_loses_nothing_when_a_folder_crawls_again(world):
    """The same stage and bucket meet another opt-out: the first one is still known."""
    ledger = {"opt_out_ledger": str(world.folder / "ledger")}
    first, second = "http://a.example/noai.jpg", "http://a.example/reserved.jpg"
    good, cut = [(url,) for url in changing(1)], {"num_buckets": 1}
    world.run("crawl", [*good, (first,)], execution=ledger, limits=cut)
    shutil.rmtree(world.folder / "crawl")
    shutil.rmtree(world.folder / "crawl-balance")
    world.run("crawl", [*good, (first,), (second,)], execution=ledger, limits=cut)
    rows = pq.read_table(str(world.folder / "ledger")).to_pylist()
    assert sorted(row["url"] for row in rows) == [first, second]
    assert len(world.server.seen("/noai.jpg")) == 1


def crawled(key, drop_reason, *, transient=False, etag=None, sha256=None):
    row = {"key": key, "drop_reason": drop_reason, "transient": transient, "etag": etag}
    return row | {"sha256": sha256, "in_ledger": False}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([crawled("k", None, etag="e", sha256="s"), crawled("k", "timeout", transient=True)], "s"),
        ([crawled("k", None, etag="e", sha256="s"), crawled("k", "over_host_budget")], "s"),
        ([crawled("k", None, etag="e", sha256="s"), crawled("k", "http_error")], "s"),
        ([crawled("k", "http_error"), crawled("k", None, etag="e", sha256="s")], "s"),
        ([crawled("k", None, sha256="r"), crawled("k", "unchanged", etag="e", sha256="s")], "s"),
        ([crawled("k", "http_error"), crawled("k", "timeout", transient=True)], "http_error"),
        ([crawled("k", "timeout", transient=True)], None),
        ([crawled("k", "too_small")], None),
        ([crawled("k", "robots_disallowed")], None),
    ],
)
def test_what_one_of_several_crawls_holds_is_not_taken_again(tmp_path, rows, expected):
    uris = []
    for number, row in enumerate(rows):
        table = pa.Table.from_pylist([row], schema=memory.REMEMBERED)
        uris.append(str(tmp_path / f"{number}.arrow"))
        exchange.send(uris[-1], table, np.zeros(1, np.int64), 1)
    decided = memory.recall(uris, 0).decide(Target("k", "http://a.example/k.jpg"))
    known = decided.held_sha256 if isinstance(decided, Target) else decided.drop_reason
    assert known == expected
