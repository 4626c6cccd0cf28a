"""Curation end to end on a small web of this test: the funnel, the files, what a kill changes."""

import asyncio
import csv
import io
import json
import os
import socket
import tempfile
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from aiohttp import web
from PIL import Image

from pipeline import storage
from pipeline.candidates.config import UrlTableConfig
from pipeline.curation import recipe
from pipeline.curation.config import CurateConfig
from pipeline.draws import generator
from pipeline.errors import DataError
from pipeline.images.decode import open_rgb
from pipeline.progress import Progress
from pipeline.queries import query_list
from pipeline.queries.config import QueriesConfig
from pipeline.results import publish_result
from pipeline.runtime import RayConfig, prepare_environment, ray_session
from pipeline.shards.reader import open_dataset, read_shard

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
        self.values = {
            "balance": {"mode": "cap", "per_query_limit": LIMIT, "seed": 1},
            "crawl": crawl,
            "filters": {"min_side_px": 64, "max_caption_repeats": 3},
            "shards": {"num_partitions": 3, "samples_per_shard": 8, "views_px": [32, 96]},
        }

    def curate(self, name, **changes):
        config = CurateConfig.model_validate(self.values | changes)
        uri = str(self.folder / name)
        progress = Progress(io.StringIO())
        return recipe.curate(config, self.source, self.queries, uri, progress)


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
        for part in ("shards", "views", "rejects", "queries_balance.parquet")
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
    table = pq.read_table(str(world.folder / "whole" / "queries_balance.parquet")).to_pylist()
    counts = {row["query"]: (row["count_before"], row["count_after"]) for row in table}
    assert counts["wallpaper"] == (NUM_WALLPAPERS, LIMIT)
    assert counts["beta"] == (10, 7)
    assert sum(after for _, after in counts.values()) == undisturbed.content["funnel"]["kept"]


def test_no_working_file_is_left(world, undisturbed):
    assert sorted(path.name for path in (world.folder / "whole").iterdir()) == [
        "circumstance.json",
        "crawl_log",
        "curated.json",
        "manifest.json",
        "queries_balance.parquet",
        "rejects",
        "shards",
        "views",
    ]
    log = pq.read_table(str(world.folder / "whole" / "crawl_log"))
    others = ["moved", "copy", "again", "cut", "icon", "banner", "secret", "noai", "inside"]
    assert log.num_rows == NUM_GOOD + LIMIT + len([*others, "page", "gone"])
    assert undisturbed.work


def test_killed_workers_and_an_aborted_run_change_no_byte(world, undisturbed, monkeypatch):
    crawl_bucket, write_bucket = recipe.crawl_bucket, recipe.write_bucket
    flags = world.folder / "flags"
    flags.mkdir()

    def once(name):
        if (flags / name).exists():
            return False
        (flags / name).touch()
        return True

    def dying_crawl(plan, bucket):
        if bucket == 1 and once("crawl"):
            os.environ["FAIL_AT"] = "storage.before_rename:2"
        return crawl_bucket(plan, bucket)

    def dying_write(plan, bucket):
        if bucket == 2 and once("write"):
            os.environ["FAIL_AT"] = "storage.after_rename:3"
        return write_bucket(plan, bucket)

    def aborting_judge(plan):
        raise DataError("the test aborts this run")

    monkeypatch.setattr(recipe, "crawl_bucket", dying_crawl)
    monkeypatch.setattr(recipe, "write_bucket", dying_write)
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "judge", aborting_judge)
        with pytest.raises(DataError, match="the test aborts"):
            world.curate("disturbed")
    crawled = files_with_times(world.folder / "disturbed" / "pool")
    output = world.curate("disturbed", execution={"keep_pool": True})
    assert sorted(path.name for path in flags.iterdir()) == ["crawl", "write"]
    assert files_with_times(world.folder / "disturbed" / "pool") == crawled
    assert output.content == undisturbed.content
    assert files_of(world.folder / "disturbed") == files_of(world.folder / "whole")


def files_with_times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_partitions_done_one_after_the_other_give_the_same_bytes(world, undisturbed, monkeypatch):
    def one_by_one(plan, name, step, missing):
        for index in reversed(missing):
            yield index, recipe._record(plan, name, index, lambda index: step(plan, index))

    monkeypatch.setattr(recipe, "_run", one_by_one)
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

    monkeypatch.setattr(recipe, "count_bucket", broken)
    with pytest.raises(DataError, match=r"^bucket \d is damaged$"):
        world.curate("broken")


def test_sampling_mode_keeps_at_least_what_its_rate_promises(world, undisturbed):
    balance = {"mode": "sample", "per_query_limit": 1000, "seed": 1}
    output = world.curate("sampled", balance=balance)
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
