"""Curation end to end on a small web of this test: the funnel, the files, what a kill changes."""

import asyncio
import csv
import datetime
import io
import json
import os
import socket
import tempfile
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web
from PIL import Image

from pipeline import steps, storage
from pipeline.candidates.config import (
    FolderConfig,
    SourceExecution,
    UrlTableConfig,
    WarcConfig,
)
from pipeline.config import semantic
from pipeline.curation import balance as balance_stage
from pipeline.curation import curate as curate_stage
from pipeline.curation.config import BalanceStageConfig, CurateConfig, Prices
from pipeline.curation.pairs import of_query
from pipeline.curation.pilot import extrapolate
from pipeline.curation.trace import rejects, trace
from pipeline.draws import generator
from pipeline.errors import ConfigError, DataError
from pipeline.images.decode import open_rgb
from pipeline.progress import Progress
from pipeline.queries import query_list
from pipeline.queries.config import QueriesConfig
from pipeline.results import publish_result, read_result
from pipeline.runtime import RayConfig, prepare_environment, ray_session
from pipeline.shards.reader import open_dataset
from pipeline.shards.tars import read_shard
from tests.warc_records import archive, record

# Ray warns of its own deprecations, which nobody here can mend.
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]

QUERIES = ["alpha", "beta", "gamma", "wallpaper"]
NUM_GOOD, NUM_WALLPAPERS, LIMIT = 18, 13, 10


def photograph(number, width=200, height=160):
    """A smooth random picture, different for every number."""
    coarse = generator(0, "photograph", number).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image, quality=90):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


BODIES = {
    **{f"/good-{i}.jpg": jpeg(photograph(i)) for i in range(NUM_GOOD)},
    **{f"/wall-{i}.jpg": png(photograph(100 + i)) for i in range(NUM_WALLPAPERS)},
    "/copy.jpg": jpeg(photograph(0)),
    "/again.jpg": jpeg(photograph(1), quality=70),
    "/cut.jpg": jpeg(photograph(50))[:900],
    "/icon.jpg": jpeg(photograph(51, 32, 32)),
    "/banner.jpg": jpeg(photograph(52, 600, 100)),
    "/private/secret.jpg": jpeg(photograph(53)),
    "/noai.jpg": jpeg(photograph(54)),
    "/target.jpg": jpeg(photograph(55)),
    **{f"/same-{i}.jpg": jpeg(photograph(60 + i)) for i in range(4)},
}


async def answer(request):
    path = request.path
    if path == "/robots.txt":
        return web.Response(text="User-agent: *\nDisallow: /private/\n")
    if path == "/moved.jpg":
        raise web.HTTPFound("http://site1.example/target.jpg")
    if path == "/inside.jpg":
        raise web.HTTPFound("http://10.0.0.1/target.jpg")
    if path == "/page.jpg":
        return web.Response(text="<html>", content_type="text/html")
    if path not in BODIES:
        return web.Response(status=404)
    headers = {"X-Robots-Tag": "noai"} if path == "/noai.jpg" else {}
    return web.Response(body=BODIES[path], content_type="image/jpeg", headers=headers)


def candidates():
    """(url, caption) rows with one of everything that may happen, and what becomes of each."""
    site = "http://site{}.example".format
    rows = [
        (f"{site(i % 5)}/good-{i}.jpg", f"{QUERIES[i % 3]} number {i}") for i in range(NUM_GOOD)
    ]
    rows += [(f"{site(i % 5)}/wall-{i}.jpg", f"wallpaper {i}") for i in range(NUM_WALLPAPERS)]
    rows += [
        (f"{site(0)}/good-0.jpg", "another alpha caption"),
        (f"{site(0)}/good-0.jpg", "alpha number 0"),
        (f"{site(3)}/moved.jpg", "beta moved away"),
        (f"{site(2)}/copy.jpg", "gamma is a copy"),
        (f"{site(3)}/again.jpg", "gamma again"),
        (f"{site(0)}/cut.jpg", "alpha cut"),
        (f"{site(1)}/icon.jpg", "alpha icon"),
        (f"{site(2)}/banner.jpg", "beta banner"),
        (f"{site(3)}/private/secret.jpg", "beta secret"),
        (f"{site(4)}/noai.jpg", "beta no"),
        (f"{site(4)}/inside.jpg", "gamma inside"),
        (f"{site(4)}/page.jpg", "gamma page"),
        (f"{site(4)}/gone.jpg", "alpha gone"),
        (f"{site(1)}/other.jpg", "no such thing"),
        (f"{site(1)}/short.jpg", "beta"),
        (f"{site(1)}/empty.jpg", " "),
        ("javascript:void(0)", "alpha script"),
    ]
    rows += [(f"{site(i)}/same-{i}.jpg", "alpha everywhere") for i in range(4)]
    return rows


DROPPED = {
    "aspect_ratio": 1,
    "caption_too_short": 1,
    "decode_error": 1,
    "duplicate_pair": 1,
    "empty_caption": 1,
    "exact_duplicate": 1,
    "http_error": 1,
    "invalid_url": 1,
    "near_duplicate": 1,
    "no_query": 1,
    "opted_out_image": 1,
    "over_query_limit": NUM_WALLPAPERS - LIMIT,
    "refused_address": 1,
    "repeated_caption": 4,
    "robots_disallowed": 1,
    "too_small": 1,
    "wrong_content_type": 1,
}


class SmallWeb:
    """Serves ``answer`` on a loopback port."""

    def __enter__(self):
        self.loop, ready = asyncio.new_event_loop(), threading.Event()
        self.stop = asyncio.Event()
        self.thread = threading.Thread(
            target=lambda: self.loop.run_until_complete(self.serve(ready)), daemon=True
        )
        self.thread.start()
        assert ready.wait(30)
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join(10)
        self.loop.close()

    async def serve(self, ready):
        app = web.Application()
        app.router.add_get("/{path:.*}", answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        await web.SockSite(runner, listener).start()
        ready.set()
        await self.stop.wait()
        await runner.cleanup()


class World:
    """A web, a candidate table, a query list, and a way to curate them."""

    def __init__(self, folder, port):
        self.folder = folder
        self.source = UrlTableConfig(type="url_table", path=str(folder / "candidates.csv"))
        with (folder / "candidates.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("url", "caption"), *candidates()])
        (folder / "list.json").write_text(json.dumps(QUERIES))
        source = {"type": "list", "path": str(folder / "list.json")}
        queries = QueriesConfig.model_validate({"sources": [source], "profile": "normalised"})
        uri = str(folder / "queries")
        query_list.write(query_list.build(queries, None), storage.join(uri, "queries.parquet"))
        self.queries = publish(uri, "queries", queries.model_dump(mode="json"), {})
        crawl = {
            "user_agent": "TestBot/1.0 (+https://test.example/bot)",
            "per_host_delay_s": 0,
            "backoff_s": 0.01,
            "execution": {"resolve": {"*.example": f"127.0.0.1:{port}"}},
        }
        self.limits = {
            "mode": "cap",
            "per_query_limit": LIMIT,
            "seed": 1,
            "captions": {"max_repeats": 3},
            "num_buckets": 3,
        }
        self.values = {
            "crawl": crawl,
            "filters": {"min_side_px": 64},
            "shards": {"samples_per_shard": 8, "views_px": [32, 96]},
        }

    def balance(self, name, source=None, said=None, **changes):
        config = BalanceStageConfig.model_validate(self.limits | changes)
        uri = str(self.folder / f"{name}-balance")
        progress = Progress(said or io.StringIO())
        source = source or self.source
        output = balance_stage.balance(config, source, self.queries, uri, progress)
        return publish(uri, "balance", semantic(config), output.content)

    def curate(self, name, source=None, limits=(), **changes):
        balanced = self.balance(name, source, **dict(limits))
        config = CurateConfig.model_validate(self.values | changes)
        uri, progress = str(self.folder / name), Progress(io.StringIO())
        return curate_stage.curate(config, source or self.source, balanced, uri, progress)


def publish(uri, stage, config, content):
    return publish_result(
        uri, stage=stage, identity="x", config=config, inputs={}, content=content, circumstance={}
    )


@pytest.fixture(scope="module")
def world():
    prepare_environment()
    with (
        tempfile.TemporaryDirectory(prefix="uc") as folder,
        SmallWeb() as small_web,
        ray_session(RayConfig(num_cpus=2)),
    ):
        yield World(Path(folder), small_web.port)


@pytest.fixture(scope="module")
def undisturbed(world):
    output = world.curate("whole")
    publish(str(world.folder / "whole"), "curate", {}, output.content)
    return output


def files_of(folder):
    """Everything that must follow from the inputs alone."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for part in (
            "shards",
            "views",
            "rejects",
            "query_counts.parquet",
            "duplicates.parquet",
            "clusters.parquet",
        )
        for path in [folder / part, *sorted((folder / part).rglob("*"))]
        if path.is_file()
    }


def test_every_candidate_is_kept_or_has_its_reason(world, undisturbed):
    funnel = undisturbed.content["funnel"]
    assert funnel["dropped"] == DROPPED
    assert funnel["candidates"] == len(candidates())
    assert funnel["kept"] == NUM_GOOD + LIMIT + 2
    assert undisturbed.content["num_samples"] == NUM_GOOD + LIMIT + 1


def test_the_data_set_reads_back_with_captions_and_views(world, undisturbed):
    uri = str(world.folder / "whole")
    samples = {sample.metadata["url"]: sample for sample in open_dataset(uri)}
    good = samples["http://site0.example/good-0.jpg"]
    assert set(good.captions) == {"alpha number 0", "another alpha caption"}
    assert good.metadata["uids"] == sorted(good.metadata["uids"])
    difference = np.asarray(good.image).astype(int) - np.asarray(photograph(0))
    assert np.abs(difference).mean() < 3
    moved = samples["http://site3.example/moved.jpg"]
    assert (moved.metadata["width"], moved.metadata["height"]) == (200, 160)
    for side in (32, 96):
        views = list(open_dataset(uri, side))
        assert [view.key for view in views] == [each.key for each in open_dataset(uri)]
        assert {view.image.size for view in views} == {(side, side)}


def test_duplicates_point_to_the_picture_that_stayed(world, undisturbed):
    uri = str(world.folder / "whole")
    assert all(sample.metadata["cluster"] == sample.key for sample in open_dataset(uri))
    index = pq.read_table(f"{uri}/rejects/index.parquet").to_pylist()
    assert {row["drop_reason"] for row in index} == set(DROPPED) - {"duplicate_pair"} - {
        "invalid_url",
        "empty_caption",
    }
    pictures = {path.parent.name for path in Path(uri, "rejects").rglob("*.jpg")}
    assert pictures == {"too_small", "aspect_ratio", "exact_duplicate", "near_duplicate"}


def test_query_counts_before_and_after_follow_from_the_pairs(world, undisturbed):
    table = pq.read_table(str(world.folder / "whole" / "query_counts.parquet")).to_pylist()
    names = ("matched", "owned", "kept", "in_shards")
    counts = {row["query"]: tuple(row[name] for name in names) for row in table}
    assert counts["wallpaper"] == (NUM_WALLPAPERS, LIMIT, LIMIT, LIMIT)
    assert counts["beta"] == (10, 10, 10, 7)
    assert (
        sum(in_shards for *_, in_shards in counts.values()) == undisturbed.content["funnel"]["kept"]
    )


def test_no_working_file_is_left(world, undisturbed):
    assert sorted(path.name for path in (world.folder / "whole").iterdir()) == [
        "circumstance.json",
        "clusters.parquet",
        "crawl_log",
        "duplicates.parquet",
        "finished.json",
        "lineage.json",
        "manifest.json",
        "query_counts.parquet",
        "rejects",
        "shards",
        "views",
    ]
    assert sorted(path.name for path in (world.folder / "whole-balance").iterdir()) == [
        "circumstance.json",
        "finished.json",
        "manifest.json",
        "pairs",
        "query_counts.parquet",
        "rejects.parquet",
    ]
    log = pq.read_table(str(world.folder / "whole" / "crawl_log"))
    others = ["moved", "copy", "again", "cut", "icon", "banner", "secret", "noai", "inside"]
    assert log.num_rows == NUM_GOOD + LIMIT + len([*others, "page", "gone"])
    assert undisturbed.work


def test_killed_workers_and_an_aborted_run_change_no_byte(world, undisturbed, monkeypatch):
    flags = world.folder / "flags"
    flags.mkdir()
    dying_crawl = dying(curate_stage.crawl_bucket, 1, "storage.before_rename:2", flags / "crawl")
    dying_write = dying(curate_stage.write_bucket, 2, "storage.after_rename:3", flags / "write")

    def aborting_judge(plan):
        raise DataError("the test aborts this run")

    monkeypatch.setattr(curate_stage, "crawl_bucket", dying_crawl)
    monkeypatch.setattr(curate_stage, "write_bucket", dying_write)
    with monkeypatch.context() as patch:
        patch.setattr(curate_stage, "judge", aborting_judge)
        with pytest.raises(DataError, match="the test aborts"):
            world.curate("disturbed")
    crawled = files_with_times(world.folder / "disturbed" / "work" / "pool")
    output = world.curate("disturbed", execution={"keep_working_files": True})
    assert sorted(path.name for path in flags.iterdir()) == ["crawl", "write"]
    assert files_with_times(world.folder / "disturbed" / "work" / "pool") == crawled
    assert output.content == undisturbed.content
    assert files_of(world.folder / "disturbed") == files_of(world.folder / "whole")


@pytest.mark.parametrize("mode", ["cap", "sample"])
def test_killed_and_resumed_balancing_keeps_the_same_pairs(world, mode, monkeypatch):
    flags = world.folder / f"flags-{mode}"
    flags.mkdir()
    dying_match = dying(balance_stage.match_part, 0, "storage.after_write:1", flags / "match")
    dying_keep = dying(balance_stage.keep_bucket, 1, "storage.before_rename:2", flags / "keep")

    def aborting_merge(plan):
        raise DataError("the test aborts this run")

    whole = world.balance(f"{mode}-whole", mode=mode)
    monkeypatch.setattr(balance_stage, "match_part", dying_match)
    monkeypatch.setattr(balance_stage, "keep_bucket", dying_keep)
    with monkeypatch.context() as patch:
        patch.setattr(balance_stage, "merge_counts", aborting_merge)
        with pytest.raises(DataError, match="the test aborts"):
            world.balance(f"{mode}-killed", mode=mode)
    resumed = world.balance(f"{mode}-killed", mode=mode)
    assert sorted(path.name for path in flags.iterdir()) == ["keep", "match"]
    assert resumed.content == whole.content
    folders = [world.folder / f"{mode}-{name}-balance" for name in ("whole", "killed")]
    pairs, again = ({p.name: p.read_bytes() for p in f.rglob("*.parquet")} for f in folders)
    assert pairs == again


def dying(step, doomed, point, flag):
    """The step, in a worker that dies at a failpoint the first time it does one partition."""

    def step_that_dies_once(plan, index):
        if index == doomed and not flag.exists():
            flag.touch()
            os.environ["FAIL_AT"] = point
        return step(plan, index)

    return step_that_dies_once


def files_with_times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_partitions_done_one_after_the_other_give_the_same_bytes(world, undisturbed, monkeypatch):
    monkeypatch.setattr(steps, "map_partitions", lambda work, rows: map(work, reversed(rows)))
    output = world.curate("alone")
    assert output.content == undisturbed.content
    assert files_of(world.folder / "alone") == files_of(world.folder / "whole")


def test_a_finished_stage_is_not_done_again(world, undisturbed):
    before = files_with_times(world.folder / "whole" / "shards")
    assert world.curate("whole") == undisturbed
    assert files_with_times(world.folder / "whole" / "shards") == before


def test_an_error_inside_a_task_reaches_the_caller_as_itself(world, undisturbed, monkeypatch):
    def broken(plan, bucket):
        raise DataError(f"bucket {bucket} is damaged")

    monkeypatch.setattr(balance_stage, "count_bucket", broken)
    with pytest.raises(DataError, match=r"^bucket \d is damaged\nin count$"):
        world.curate("broken")


def test_a_changed_file_of_pairs_is_refused(world, undisturbed):
    world.balance("changed")
    file = world.folder / "changed-balance" / "pairs" / "00001.parquet"
    pq.write_table(pq.read_table(file).slice(1), file)
    with pytest.raises(DataError, match=r"00001\.parquet is not the file that its manifest names"):
        world.curate("changed")


def test_the_pairs_of_a_query_can_be_looked_at(world, undisturbed):
    balanced = world.balance("whole")
    *found, counts = of_query(balanced, "wallpaper", 4)
    assert len(found) == 4
    assert all(pair["caption"].startswith("wallpaper ") for pair in found)
    assert (counts["matched"], counts["kept"]) == (NUM_WALLPAPERS, LIMIT)
    assert len(list(of_query(balanced, "wallpaper", 100))) == LIMIT + 1
    with pytest.raises(ConfigError, match=r"'walpaper' is not among 4 queries; near it: 'wallp"):
        list(of_query(balanced, "walpaper", 4))


def test_sampling_mode_keeps_at_least_what_its_rate_promises(world, undisturbed):
    limits = {"mode": "sample", "per_query_limit": 1000}
    output = world.curate("sampled", limits=limits)
    dropped = {reason: n for reason, n in DROPPED.items() if reason != "over_query_limit"}
    assert output.content["funnel"]["dropped"] == dropped


def test_webdataset_and_ray_data_read_the_same_samples(world, undisturbed):
    import ray.data
    import webdataset

    folder = world.folder / "whole" / "shards"
    entries = undisturbed.content["shards"]
    ours = {
        sample.key: sample
        for entry in entries
        for sample in read_shard(str(folder / entry["name"]), entry)
    }
    paths = [str(folder / entry["name"]) for entry in entries]
    theirs = list(webdataset.WebDataset(paths, shardshuffle=False))
    assert {sample["__key__"] for sample in theirs} == set(ours)
    for sample in theirs:
        mine = ours[sample["__key__"]]
        assert {name: sample[name] for name in mine.members} == mine.members
    rows = ray.data.read_webdataset(paths).take_all()
    assert {row["__key__"] for row in rows} == set(ours)
    for row in rows:
        mine = ours[row["__key__"]]
        assert row["txt"] == mine.captions()[0]
        assert row["json"]["uids"] == mine.metadata()["uids"]
        picture = row.get("jpg") if row.get("jpg") is not None else row["png"]
        assert np.array_equal(np.asarray(picture), np.asarray(open_rgb(mine.image)))


def fill_folder(folder):
    """Six pictures of the small web with a captions' table, and one file that is no picture."""
    (folder / "deep").mkdir(parents=True)
    for index in range(6):
        (folder / "deep" / f"{index} ä.jpg").write_bytes(BODIES[f"/good-{index}.jpg"])
    (folder / "deep" / "page.jpg").write_text("<html>")
    lines = [
        {"file_name": f"{name}.jpg", "caption": f"alpha {name}", "width": 7, "rights": "by"}
        for name in (*(f"{index} ä" for index in range(6)), "page", "gone")
    ]
    (folder / "deep" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))


def test_a_folder_of_pictures_goes_the_way_of_all_pictures(world, undisturbed):
    fill_folder(world.folder / "pictures")
    source = FolderConfig(
        type="folder",
        path=str(world.folder / "pictures"),
        captions="deep/metadata.jsonl",
        licence_column="rights",
        carried_columns=("width",),
    )
    output = world.curate("from_folder", source)
    assert output.content["funnel"]["dropped"] == {"missing_file": 1, "wrong_content_type": 1}
    assert output.content["num_samples"] == 6
    uri = str(world.folder / "from_folder")
    publish(uri, "curate", {}, output.content)
    samples = {sample.metadata["url"]: sample for sample in open_dataset(uri)}
    mine = samples["file:///deep/3%20%C3%A4.jpg"]
    same = {s.metadata["url"]: s for s in open_dataset(str(world.folder / "whole"))}
    there = same["http://site3.example/good-3.jpg"]
    assert mine.metadata["sha256"] == there.metadata["sha256"]
    assert (mine.metadata["licence"], mine.metadata["width"]) == ("by", 200)
    assert mine.metadata["source_width"] == "7"


def traced(world, **asked):
    folder = world.folder
    stages = {"queries": "queries", "balance": "whole-balance", "curate": "whole"}
    results = {name: read_result(str(folder / place)) for name, place in stages.items()}
    return list(trace(results, world.source, **asked))


FATES = {
    "http://site3.example/private/secret.jpg": "robots_disallowed",
    "http://site4.example/noai.jpg": "opted_out_image",
    "http://site4.example/inside.jpg": "refused_address",
    "http://site4.example/gone.jpg": "http_error",
    "http://site0.example/cut.jpg": "decode_error",
    "http://site1.example/icon.jpg": "too_small",
    "http://site2.example/copy.jpg": "exact_duplicate",
    "http://site3.example/again.jpg": "near_duplicate",
    "http://site1.example/other.jpg": "no_query",
    "http://site1.example/short.jpg": "caption_too_short",
    "http://site2.example/same-2.jpg": "repeated_caption",
}


@pytest.mark.parametrize("url", FATES)
def test_every_address_is_told_its_one_fate(world, undisturbed, url):
    told = traced(world, url=url)
    assert [row["drop_reason"] for row in told if row.get("drop_reason")] == [FATES[url]]
    assert told[-1]["kept"] is False


def test_a_fate_comes_with_its_numbers(world, undisturbed):
    (short,) = traced(world, url="http://site1.example/short.jpg")
    assert (short["num_words"], short["min_words"]) == (1, 2)
    (same,) = traced(world, url="http://site0.example/same-0.jpg")
    assert (same["num_pictures"], same["max_repeats"]) == (4, 3)
    near = traced(world, url="HTTP://site3.example:80/again.jpg")[-1]
    assert 0 <= near["hamming"] <= 4
    assert near["leader_url"] == "http://site1.example/good-1.jpg"
    gone = traced(world, url="http://site4.example/gone.jpg")
    assert gone[-1]["status"] == 404
    assert gone[0]["queries"][0]["query"] == "alpha"
    told = [
        traced(world, url=f"http://site{i % 5}.example/wall-{i}.jpg")[0]
        for i in range(NUM_WALLPAPERS)
    ]
    over = [row for row in told if not row["kept"]]
    assert {row["drop_reason"] for row in over} == {"over_query_limit"}
    assert len(over) == NUM_WALLPAPERS - LIMIT
    assert {row["queries"][0]["matched"] for row in told} == {NUM_WALLPAPERS}
    assert {row["queries"][0]["limit"] for row in told} == {LIMIT}


def test_a_kept_sample_is_found_by_address_uid_and_key(world, undisturbed):
    by_url = traced(world, url="http://site0.example/good-0.jpg")
    sample = by_url[-1]
    assert (sample["stage"], sample["kept"], len(sample["captions"])) == ("curate", True, 2)
    assert traced(world, key=sample["key"]) == by_url
    by_uid = traced(world, uid=sample["uids"][1])
    assert by_uid[-1] == sample
    assert [row["caption"] for row in by_uid if row["stage"] == "balance"] == [
        sample["captions"][1]
    ]
    with pytest.raises(ConfigError, match="neither a candidate nor a sample"):
        traced(world, url="http://nowhere.example/")


def test_rejects_are_shown_by_reason_with_their_pictures(world, undisturbed):
    curated = read_result(str(world.folder / "whole"))
    (small,) = rejects(curated, "too_small", 0, 5)
    assert (small["num_dropped"], small["url"]) == (1, "http://site1.example/icon.jpg")
    assert Path(small["picture"]).stat().st_size > 100
    everything = list(rejects(curated, None, 0, 2))
    assert {row["drop_reason"] for row in everything} == set(DROPPED) - {
        "duplicate_pair",
        "empty_caption",
        "invalid_url",
    }
    with pytest.raises(ConfigError, match="nothing fell for that reason"):
        list(rejects(curated, "none", 0, 5))


def test_the_manifest_counts_licences(undisturbed):
    content = undisturbed.content
    assert content["licences"] == {"unknown": content["num_samples"]}


def test_carried_columns_reach_the_shards_through_every_stage(world, undisturbed):
    kept = [f"http://site{i % 5}.example/good-{i}.jpg" for i in range(NUM_GOOD)]
    days = [datetime.date(2024, 1, 1 + i) for i in range(NUM_GOOD)]
    columns = {
        "url": kept,
        "caption": [f"alpha {i}" for i in range(NUM_GOOD)],
        "sha256": [f"{i:064x}" for i in range(NUM_GOOD)],
        "width": pa.array(range(NUM_GOOD), pa.uint16()),
        "tags": [["a", str(i)] for i in range(NUM_GOOD)],
        "day": days,
        "kind": pa.array(["x", None] * (NUM_GOOD // 2)).dictionary_encode(),
        "not_carried": [0] * NUM_GOOD,
    }
    (world.folder / "tables").mkdir()
    for part in range(3):  # of one picture's columns, wherever its row stands
        table = pa.table(columns).slice(part * 6, 6)
        pq.write_table(table, world.folder / "tables" / f"{part}.parquet")
    names = ("sha256", "width", "tags", "day", "kind")
    source = UrlTableConfig(
        type="url_table", path=str(world.folder / "tables"), carried_columns=names
    )
    output = world.curate("carried", source, {"per_query_limit": NUM_GOOD})
    tables = [
        pq.read_table(world.folder / "carried" / "shards" / entry["name"].replace("tar", "parquet"))
        for entry in output.content["shards"]
    ]
    assert len({table.schema for table in tables}) == 1
    rows = {row["url"]: row for table in tables for row in table.to_pylist()}
    assert set(rows) == set(kept)
    for index, url in enumerate(kept):
        row = rows[url]
        assert (row["source_width"], row["source_sha256"]) == (index, f"{index:064x}")
        assert (row["width"], len(row["sha256"])) == (200, 64)
        assert (row["tags"], row["day"]) == (["a", str(index)], days[index])
        assert row["kind"] == (None if index % 2 else "x")
        assert "not_carried" not in row


def test_damage_is_named_and_too_much_of_it_stops_the_job_before_the_crawl(world, undisturbed):
    folder = world.folder / "archives"
    folder.mkdir()
    page = "<html lang=en><img src=http://site0.example/good-{0}.jpg alt='alpha {0}'>"
    for index in range(2):
        archive(folder, record(page.format(index)), name=f"{index}.warc.gz")
    archive(folder, record(page.format(2)), record(page.format(3)), name="cut.warc.gz", cut=9)
    source = WarcConfig(type="warc", path=str(folder))
    said = io.StringIO()
    balanced = world.balance("damaged", source, said=said).content
    assert (balanced["num_files"], balanced["num_damaged_files"]) == (3, 1)
    assert balanced["damage"][0].startswith("cut.warc.gz: the gzip data after byte")
    assert "damaged: cut.warc.gz" in said.getvalue()
    output = world.curate("damaged", source)
    shard = output.content["shards"][0]["name"].replace("tar", "parquet")
    table = pq.read_table(world.folder / "damaged" / "shards" / shard)
    assert set(table.column("language").to_pylist()) == {"en"}
    archive(folder, record(page.format(4)), name="also.warc.gz", cut=9)
    with pytest.raises(DataError, match=r"2 of 4 candidate files are damaged"):
        world.balance("too_damaged", source)
    archive(folder, record(page.format(4)), name="also.warc.gz")
    assert world.balance("too_damaged", source).content["num_damaged_files"] == 1
    archive(folder, record(page.format(4)), name="also.warc.gz", cut=9)
    tolerant = source.model_copy(update={"execution": SourceExecution(max_damaged_share=0.5)})
    assert world.balance("tolerated", tolerant).content["num_damaged_files"] == 2


def test_nothing_left_is_one_message(world, undisturbed):
    with pytest.raises(DataError, match=r"no pair is left of \d+ candidates: .*give other queries"):
        world.balance("nothing", captions={"min_chars": 500})


def test_a_pilot_uses_its_share_and_foretells_the_run(world, undisturbed):
    source = world.source.model_copy(update={"sample": 0.6})
    limits = {"per_query_limit": 1000}
    output = world.curate("pilot", source, limits)
    balanced = world.balance("pilot", source, **limits)
    dropped = output.content["funnel"]["dropped"]
    assert balanced.content["sample"] == 0.6
    assert output.content["funnel"]["candidates"] == len(candidates())
    assert 0 < dropped["not_in_sample"] < len(candidates())
    assert dropped["empty_caption"] == 1
    config = CurateConfig.model_validate(world.values)
    uri = str(world.folder / "pilot")
    result = publish(uri, "curate", semantic(config), output.content)
    found = extrapolate(balanced, result, Prices(per_cpu_hour=1.0))
    whole = world.curate("all", limits=limits).content["funnel"]
    kept = found.estimates["kept_pairs"]
    assert kept.low95 <= whole["kept"] <= kept.high95
    assert found.estimates["cost"].value > 0
