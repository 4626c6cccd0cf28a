"""Samples come in the global order, whole and checked, whatever is cached."""

import io
import threading
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError, DataError
from pipeline.results import read_result
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.embedding_files import EmbeddedDataset
from pipeline.shards.loader import Loader, Share, prefetch
from pipeline.shards.sampler import Order
from pipeline.shards.shard_source import ShardSource
from pipeline.shards.tars import own_pictures, read_tar
from pipeline.shards.views import shrunk
from tests.synthetic import DIM, VIEW_PX, make_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"))


def open_source(
    dataset, *, view_px=VIEW_PX, image_px=None, embedded=True, cache_bytes=1 << 20, split="train"
):
    curated = CuratedDataset.open(dataset.curated_uri)
    result = read_result(dataset.embedded_uri)
    return ShardSource(
        curated,
        dataset.keep,
        split,
        view_px=view_px,
        image_px=image_px,
        embedded=EmbeddedDataset(result, curated) if embedded else None,
        cache_bytes=cache_bytes,
    )


def loader(dataset, source):
    return Loader(source, Order(source.counts, 0, 4), 8, 4)


def test_a_sample_brings_picture_captions_and_embeddings_of_one_key(dataset):
    source = open_source(dataset)
    curated = CuratedDataset.open(dataset.curated_uri)
    rows = {row["key"]: row for shard in range(6) for row in curated.rows(shard).to_pylist()}
    for sample in next(loader(dataset, source).read(Share(), 0)):
        row = rows[sample.key]
        assert sample.captions == tuple(row["captions"])
        assert sample.image.shape == (VIEW_PX, VIEW_PX, 3)
        assert len(sample.z_txt) == len(sample.text_tokens) == len(row["captions"])
        assert sample.z_img.shape == (DIM,)
        assert sample.text_tokens[0].tolist() == [1, 2, 9]


def test_embeddings_belong_to_their_key(dataset):
    source = open_source(dataset, view_px=None)
    curated = CuratedDataset.open(dataset.curated_uri)
    table = EmbeddedDataset(read_result(dataset.embedded_uri), curated).table(2)
    expected = dict(zip(table["key"].to_pylist(), table["z_img"].to_pylist(), strict=True))
    for offset, key in enumerate(source.keys(2)):
        sample = source.sample(0, 2, offset)
        assert sample.key == key
        assert np.array_equal(sample.z_img, np.float32(expected[key]))


def test_a_source_without_a_view_opens_no_picture(dataset, monkeypatch):
    monkeypatch.setattr(CuratedDataset, "pictures", lambda *_: pytest.fail("opened a picture"))
    assert open_source(dataset, view_px=None).sample(0, 0, 0).image is None


@pytest.mark.parametrize("cache_bytes", [0, 2_000, 1 << 30])
def test_the_cache_changes_nothing_but_time(dataset, cache_bytes):
    roomy = loader(dataset, open_source(dataset)).read(Share(), 0)
    small = loader(dataset, open_source(dataset, cache_bytes=cache_bytes)).read(Share(), 0)
    for _ in range(4):
        for one, other in zip(next(roomy), next(small), strict=True):
            assert one.key == other.key
            assert np.array_equal(one.image, other.image)


def test_what_no_coming_step_needs_keeps_its_bound(dataset):
    source = open_source(dataset, cache_bytes=5_000)
    reading = loader(dataset, source).read(Share(), 0)
    for _ in range(10):
        next(reading)
        shelf = source._shelf
        beyond = [shard for shard in shelf._held if shard not in shelf._announced]
        assert not beyond or shelf._held_bytes <= 5_000


def test_keys_of_a_step_are_those_of_all_workers_in_order(dataset):
    reader = loader(dataset, open_source(dataset, view_px=None))
    samples = [sample for rank in range(2) for sample in next(reader.read(Share(rank, 2), 3))]
    by_position = sorted(samples, key=lambda sample: sample.position)
    assert reader.keys(3) == [sample.key for sample in by_position]


def test_splits_share_no_key_and_no_cluster(dataset):
    clusters = {}
    curated = CuratedDataset.open(dataset.curated_uri)
    for split in ("train", "validation", "test"):
        source = open_source(dataset, split=split)
        keys = {key for shard in range(6) for key in source.keys(shard)}
        clusters[split] = {
            row["cluster"]
            for shard in range(6)
            for row in curated.rows(shard).to_pylist()
            if row["key"] in keys
        }
    assert all(clusters.values())
    assert not clusters["train"] & clusters["validation"]
    assert not (clusters["train"] | clusters["validation"]) & clusters["test"]


def test_an_unknown_view_is_refused_with_the_known_ones(dataset):
    with pytest.raises(ConfigError, match=r"no 32 px view, only \[16\]"):
        open_source(dataset, view_px=32)


@pytest.mark.parametrize("name", ["views/16/00000.tar", "shards/00000.parquet"])
def test_a_changed_file_is_refused_before_it_is_read(tmp_path, name):
    fresh = make_dataset(tmp_path)
    path = Path(fresh.curated_uri, name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="sha256"):
        open_source(fresh).sample(0, 0, 0)


def test_a_view_is_read_as_any_tar_is(dataset):
    path = Path(dataset.curated_uri, "views/16/00000.tar")
    with path.open("rb") as file:
        careful = [(raw.key, raw.image) for raw in read_tar(file, "view")]
    assert list(own_pictures(io.BytesIO(path.read_bytes()), "view")) == careful


@pytest.mark.parametrize(
    ("at", "byte"),
    [
        (0, b"/"),
        (0, b"\xff"),
        (124, b"-"),
        (134, b"9"),
        (124, b"7" * 11),
        (156, b"2"),
        (157, b"x"),
        (257, b"x"),
    ],
)
def test_a_header_that_is_not_plain_is_refused_with_its_place(dataset, at, byte):
    content = bytearray(Path(dataset.curated_uri, "views/16/00000.tar").read_bytes())
    content[at : at + len(byte)] = byte
    with pytest.raises(DataError, match="byte 0 begins no plain member"):
        list(own_pictures(io.BytesIO(content), "view"))


def test_a_tar_without_its_end_is_refused(dataset):
    content = Path(dataset.curated_uri, "views/16/00000.tar").read_bytes().rstrip(b"\0")
    whole = content + bytes(-len(content) % 512)
    with pytest.raises(DataError, match="begins no plain member"):
        list(own_pictures(io.BytesIO(whole), "view"))


def test_a_tar_that_ends_inside_a_member_is_refused(dataset):
    content = Path(dataset.curated_uri, "views/16/00000.tar").read_bytes()
    with pytest.raises(DataError, match="cut inside the member at byte 0"):
        list(own_pictures(io.BytesIO(content[:600]), "view"))


def test_pictures_are_shrunk_while_they_are_read(dataset):
    large, small = (open_source(dataset, image_px=side) for side in (None, VIEW_PX // 2))
    for sample, other in zip(
        next(loader(dataset, large).read(Share(), 0)),
        next(loader(dataset, small).read(Share(), 0)),
        strict=True,
    ):
        assert np.array_equal(other.image, shrunk(sample.image, VIEW_PX // 2))


def test_prefetch_hands_on_items_and_errors_and_ends_its_thread():
    def items():
        yield 1
        yield 2
        raise ValueError("broken")

    ahead = prefetch(items(), 1)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(ValueError, match="broken"):
        next(ahead)
    endless = prefetch(iter(int, 1), 2)
    next(endless)
    endless.close()
    assert not [t for t in threading.enumerate() if t.name == "prefetch"]
