"""What an object store holds is fetched once, kept within a limit, and checked at every reading."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest

from pipeline import storage
from pipeline.errors import DataError, StorageError
from pipeline.shards.disk_cache import DiskCache, read_verified
from pipeline.shards.loader import Loader, Share
from pipeline.training.batches import DataPlace
from tests.synthetic import PictureTask, make_dataset


@pytest.fixture
def store():
    """Eight files of 100 bytes on an object store: address and hash."""
    found = []
    for number in range(8):
        content, uri = bytes([number]) * 100, f"memory://store/{number}.tar"
        storage.write_bytes(uri, content)
        found.append((uri, hashlib.sha256(content).hexdigest()))
    yield found
    storage.remove_folder("memory://store")


@pytest.fixture
def fetched(monkeypatch):
    """Addresses that were read from the store."""
    found, read = [], storage.read_bytes
    monkeypatch.setattr(storage, "read_bytes", lambda uri: found.append(uri) or read(uri))
    return found


def held(cache):
    return {path.name for path in Path(cache.path).iterdir() if path.name != ".lock"}


def test_a_file_is_fetched_once_and_shared(store, fetched, tmp_path):
    cache = DiskCache(str(tmp_path), 1000)
    for reader in (cache, cache, DiskCache(str(tmp_path), 1000)):
        assert read_verified(*store[3], reader) == b"\3" * 100
    assert fetched == [store[3][0]]


def test_a_local_file_is_not_copied(tmp_path):
    path = tmp_path / "local.tar"
    path.write_bytes(b"here")
    cache = DiskCache(str(tmp_path / "cache"), 1000)
    assert read_verified(str(path), hashlib.sha256(b"here").hexdigest(), cache) == b"here"
    assert not (tmp_path / "cache").exists()


def test_what_was_used_longest_ago_makes_room_and_the_limit_holds(store, fetched, tmp_path):
    cache = DiskCache(str(tmp_path), 350)
    for number in (0, 1, 2, 0, 3):
        cache.read(*store[number])
        assert sum(os.path.getsize(tmp_path / name) for name in held(cache)) <= 350
    assert held(cache) == {store[number][1] for number in (0, 2, 3)}


def test_a_file_above_the_limit_is_read_and_not_kept(store, tmp_path):
    cache = DiskCache(str(tmp_path), 99)
    assert cache.read(*store[0]) == b"\0" * 100
    assert not tmp_path.exists() or not held(cache)


def test_files_of_others_in_the_folder_are_left_alone(store, tmp_path):
    (tmp_path / "thesis.tex").write_bytes(b"x" * 1000)
    (tmp_path / "folder").mkdir()
    cache = DiskCache(str(tmp_path), 150)
    for number in range(3):
        cache.read(*store[number])
    assert held(cache) == {"thesis.tex", "folder", store[2][1]}


def test_a_folder_that_cannot_be_keeps_nothing(store, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    cache = DiskCache(str(tmp_path / "file"), 1000)
    assert cache.read(*store[1]) == b"\1" * 100


def test_a_damaged_copy_is_fetched_again(store, fetched, tmp_path):
    cache = DiskCache(str(tmp_path), 1000)
    cache.read(*store[0])
    (tmp_path / store[0][1]).write_bytes(b"\0" * 99)
    assert cache.read(*store[0]) == b"\0" * 100
    assert len(fetched) == 2
    assert (tmp_path / store[0][1]).read_bytes() == b"\0" * 100


def test_a_damaged_source_is_refused_and_not_kept(store, tmp_path):
    cache = DiskCache(str(tmp_path), 1000)
    with pytest.raises(DataError, match="sha256"):
        cache.read(store[0][0], store[1][1])
    with pytest.raises(DataError, match=r"nothing\.tar: the file is missing"):
        cache.read("memory://store/nothing.tar", store[1][1])
    assert not tmp_path.exists() or not held(cache)


def test_what_a_killed_process_was_writing_is_removed_by_the_next(store, tmp_path):
    left = tmp_path / f"abc{storage.TEMPORARY_MARK}12345678"
    left.write_bytes(b"half")
    DiskCache(str(tmp_path), 1000).read(*store[0])
    assert not left.exists()


def test_a_full_disk_costs_the_copy_alone(store, tmp_path, monkeypatch):
    def full(uri, content):
        raise StorageError("full")

    monkeypatch.setattr(storage, "write_bytes", full)
    assert DiskCache(str(tmp_path), 1000).read(*store[0]) == b"\0" * 100


def test_many_readers_at_once_keep_the_limit(store, tmp_path):
    def read(number):
        return DiskCache(str(tmp_path), 350).read(*store[number % 8])[0] == number % 8

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(200)))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 350


def test_a_training_reads_an_object_store_as_it_reads_a_folder(tmp_path, fetched):
    local = make_dataset(tmp_path / "data")
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "data"), "/data", recursive=True)
    remote = DataPlace(
        local.curated_uri.replace(str(tmp_path), "memory:/"),
        local.keep,
        local.embedded_uri.replace(str(tmp_path), "memory:/"),
    )
    disk = DiskCache(str(tmp_path / "cache"), 1 << 20)
    expected, found = read(local, None), read(remote, disk)
    assert read(remote, disk)[0].key == expected[0].key
    tars = [uri for uri in fetched if uri.startswith("memory") and uri.endswith(".tar")]
    assert len(set(tars)) == len(tars) > 0
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.key == theirs.key
        assert np.array_equal(ours.image, theirs.image)
        assert np.array_equal(ours.z_img, theirs.z_img)
    memory.rm("/data", recursive=True)


def read(place, disk):
    source = place.source(PictureTask(), "train", cache_bytes=0, disk=disk)
    reading = Loader(source, source.order(1, 4), 8, 8).read(Share(), 0)
    found = [sample for _ in range(4) for sample in next(reading)]
    source._shelf._threads.shutdown()  # what was begun ahead is there
    return found
