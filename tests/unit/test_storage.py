import errno
import os
import subprocess
import sys

import pytest

from pipeline import storage
from pipeline.errors import StorageError


def test_what_was_written_is_read_back(tmp_path):
    uri = storage.join(str(tmp_path), "a", "b.json")
    storage.write_json(uri, {"z": 1, "a": [2]})
    assert storage.read_json(uri) == {"a": [2], "z": 1}
    assert storage.list_names(str(tmp_path / "a")) == ["b.json"]
    assert storage.size_of(uri) == len(storage.read_bytes(uri))


def test_a_failing_writer_leaves_nothing(tmp_path):
    uri = str(tmp_path / "x.bin")
    with pytest.raises(ValueError, match="half"), storage.open_for_publish(uri) as file:
        file.write(b"part")
        raise ValueError("half")
    assert os.listdir(tmp_path) == []


def test_a_failing_writer_keeps_the_old_file(tmp_path):
    uri = str(tmp_path / "x.bin")
    storage.write_bytes(uri, b"old")
    with pytest.raises(ValueError, match="half"), storage.open_for_publish(uri) as file:
        file.write(b"new, but")
        raise ValueError("half")
    assert storage.read_bytes(uri) == b"old"


@pytest.mark.parametrize("point", ["before_write", "after_write", "before_rename"])
def test_a_kill_before_the_rename_leaves_no_file_under_its_name(tmp_path, point):
    code = f"from pipeline import storage; storage.write_bytes({str(tmp_path / 'x.bin')!r}, b'1')"
    environment = {**os.environ, "FAIL_AT": f"storage.{point}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert done.returncode == -9
    assert not (tmp_path / "x.bin").exists()
    assert storage.list_names(str(tmp_path)) == []
    storage.remove_temporary(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_names_path_bytes_and_remedy(tmp_path):
    def full() -> None:
        with storage.temporary_path(str(tmp_path / "x.bin")):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match=r"x\.bin: the disk is full \(\d+ bytes free\)"):
        full()


def test_object_store_addresses_are_read_and_written_whole():
    storage.write_bytes("memory://bucket/a/x.txt", b"hello")
    assert storage.read_bytes("memory://bucket/a/x.txt") == b"hello"
    assert storage.list_names("memory://bucket/a") == ["x.txt"]
    assert storage.exists("memory://bucket/a/x.txt")
    with pytest.raises(StorageError, match="no local path"):
        storage.local_path("memory://bucket/a")


@pytest.mark.parametrize("uri", ["s3://bucket/run", "gs://bucket/a/run", "/data/run"])
def test_results_lie_in_a_folder_or_in_one_of_a_bucket(uri):
    assert storage.place_for_results(uri) == uri


@pytest.mark.parametrize("uri", ["gs://bucket", "s3://bucket/", "s3:///run/", "http://x/run"])
def test_nowhere_else(uri):
    with pytest.raises(ValueError, match="results are written to a local folder, to s3"):
        storage.place_for_results(uri)
