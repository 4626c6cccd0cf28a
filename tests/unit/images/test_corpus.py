"""The picture corpus through the whole stage, and through one child, again and again."""

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.images.config import DecodeConfig
from pipeline.images.decode import open_rgb
from pipeline.images.decoder import Decoded, Decoder
from pipeline.shards import manifest
from pipeline.shards.reader import open_dataset, read_shard
from tests.local_curation import curate_pictures, url_of
from tests.picture_corpus import MAX_PIXELS, corpus, neighbours, photograph, saved

CONFIG = DecodeConfig(max_pixels=MAX_PIXELS, cpu_deadline_s=1.0)
OUTCOMES = {"decode_error", "too_many_pixels", "decode_timeout", "decode_memory"}
DECODE = CONFIG.model_dump(mode="json")


@pytest.fixture(scope="module")
def cases():
    return corpus()


@pytest.fixture(scope="module")
def curated(cases, tmp_path_factory):
    """The stage on good pictures alone, and with the corpus between them: folder and result."""
    found = {}
    bodies = {name: case.body for name, case in cases.items()}
    with pytest.MonkeyPatch.context() as patch:
        for name, pictures in {"alone": neighbours(), "among": bodies | neighbours()}.items():
            folder = tmp_path_factory.mktemp(name)
            found[name] = curate_pictures(folder, pictures, patch, decode=DECODE)
    return found


def test_every_picture_has_its_one_outcome(cases, curated):
    uri, result = curated["among"]
    log = pq.read_table(f"{uri}/crawl_log").to_pylist()
    assert len(log) == len(cases) + len(neighbours())
    outcomes = {row["url"]: row["drop_reason"] for row in log}
    wrong = {
        name: outcomes[url_of(name)]
        for name, case in cases.items()
        if outcomes[url_of(name)] != case.outcome
    }
    assert not wrong
    funnel = result.content["funnel"]
    assert funnel["candidates"] == len(log) == funnel["kept"] + sum(funnel["dropped"].values())
    assert set(funnel["dropped"]) <= OUTCOMES | {"wrong_content_type"}


def test_what_is_kept_is_upright_rgb_and_shows_the_picture(cases, curated):
    uri, _ = curated["among"]
    samples = {sample.metadata["url"]: sample for sample in open_dataset(uri)}
    kept = {name: case for name, case in cases.items() if case.looks is not None}
    assert set(samples) == {url_of(name) for name in {*kept, *neighbours()}}
    for name, case in kept.items():
        image = samples[url_of(name)].image
        assert image.size == case.looks.size, name
        assert not image.getexif(), name
        difference = np.asarray(image).astype(int) - np.asarray(case.looks.convert("RGB"))
        assert np.abs(difference).mean() < 6, name


def members(curated, part):
    """Every file of every neighbour in a stage's shards and views."""
    uri, result = curated[part]
    urls = {url_of(name) for name in neighbours()}
    log = pq.read_table(f"{uri}/crawl_log").to_pylist()
    keys = {row["key"] for row in log if row["url"] in urls}
    folders = {manifest.folder(uri): result.content["shards"]}
    folders[manifest.folder(uri, 16)] = result.content["views"]["16"]
    return {
        (folder.removeprefix(uri), sample.key): sample.members
        for folder, entries in folders.items()
        for entry in entries
        for sample in read_shard(f"{folder}/{entry['name']}", entry)
        if sample.key in keys
    }


def test_neighbours_are_the_same_bytes_whatever_lies_between_them(curated):
    found = members(curated, "among")
    assert len(found) == 2 * len(neighbours())
    assert found == members(curated, "alone")


def test_neighbours_keep_their_received_bytes(curated):
    uri, _ = curated["among"]
    kept = {sample.metadata["url"]: sample for sample in open_dataset(uri)}
    for name, body in neighbours().items():
        assert np.array_equal(np.asarray(kept[url_of(name)].image), np.asarray(open_rgb(body)))


def test_memory_is_bounded_and_does_not_grow(cases):
    bodies = [case.body for case in cases.values() if case.outcome != "decode_timeout"]
    with Decoder(CONFIG) as decoder:
        after = []
        for _ in range(4):
            for body in bodies:
                decoder.decode(body)
            after.append(psutil.Process(decoder.pid).memory_info().rss)
        with open(f"/proc/{decoder.pid}/status") as file:
            peak = next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))
    assert after[-1] < after[0] + (8 << 20)
    assert peak < 160 << 20  # 50 MB of it are interpreter and libraries; the bombs want gigabytes


BODIES = [
    saved(photograph(0), "JPEG", quality=80),
    saved(photograph(0), "JPEG", progressive=True),
    saved(photograph(0).convert("CMYK"), "JPEG"),
    saved(photograph(0), "PNG"),
    saved(photograph(0).convert("P"), "PNG"),
    saved(photograph(0).convert("RGBA"), "WEBP"),
    saved(photograph(0), "WEBP", lossless=True),
    saved(photograph(0), "GIF"),
    saved(photograph(0), "GIF", save_all=True, append_images=[photograph(1)]),
]
GOOD = saved(photograph(2), "JPEG", quality=92)


@pytest.fixture(scope="module")
def decoder():
    with Decoder(CONFIG) as found:
        yield found


def edit(draw, body):
    """One change of a file: bytes overwritten, cut out, doubled, or the end cut off."""
    start = draw(st.integers(0, max(0, len(body) - 1)))
    length = draw(st.integers(1, 64))
    kind = draw(st.sampled_from(["write", "remove", "repeat", "cut"]))
    if kind == "write":
        new = draw(st.binary(min_size=length, max_size=length))
        return body[:start] + new + body[start + length :]
    if kind == "remove":
        return body[:start] + body[start + length :]
    if kind == "repeat":
        return body[: start + length] + body[start:]
    return body[:start]


@st.composite
def mutations(draw):
    body = draw(st.sampled_from(BODIES))
    for _ in range(draw(st.integers(1, 4))):
        body = edit(draw, body)
    return body


@settings(max_examples=300, deadline=None)
@given(body=mutations())
def test_any_mutation_has_a_defined_outcome_and_harms_nobody(decoder, body):
    before = decoder.decode(GOOD)
    pid = decoder.pid
    found = decoder.decode(body)
    if isinstance(found, Decoded):
        image = open_rgb(found.encoded)
        assert image.size == (found.width, found.height)
        assert max(image.size) <= CONFIG.pool_side_px
    else:
        assert found in OUTCOMES
    assert found == "decode_timeout" or decoder.pid == pid
    assert decoder.decode(GOOD) == before
