import errno
import gzip
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import storage
from pipeline.candidates import files, sources
from pipeline.candidates.config import UrlTableConfig


def breaking(content):
    """A reader that raises where the content ends, as gzip does."""
    source = io.BytesIO(content)

    def read(size):
        chunk = source.read(min(size, 5))
        if not chunk:
            raise EOFError("no end")
        return chunk

    return read


@given(st.binary(max_size=40) | st.lists(st.sampled_from([b"a", b"\n"])).map(b"".join))
def test_whole_files_pass_unchanged_and_broken_ones_end_with_their_last_line(content):
    damage = []
    whole = files.WholeLines(io.BytesIO(content).read, "a.csv", damage)
    assert io.BufferedReader(whole).read() == content
    assert damage == []
    broken = files.WholeLines(breaking(content), "a.csv", damage)
    assert io.BufferedReader(broken).read() == content[: content.rfind(b"\n") + 1]
    assert damage == [f"a.csv: breaks off after {len(content)} bytes: no end"]


@pytest.mark.parametrize("error", [EOFError(), OSError("corrupt page"), gzip.BadGzipFile("crc")])
def test_errors_of_decoders_are_damage(error):
    assert files.is_damage(error)


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "disk"), ConnectionResetError("net"), TimeoutError("slow")]
)
def test_errors_of_stores_are_not(error):
    assert not files.is_damage(error)


def test_a_store_that_fails_stops_the_task(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"url": ["http://a.com/1"], "caption": ["x"]}), path)
    config = UrlTableConfig(type="url_table", path=str(path))
    (partition,) = sources.plan(config)

    class Failing(io.FileIO):
        def readinto(self, buffer):
            raise ConnectionResetError("net")

        def read(self, size=-1):
            raise ConnectionResetError("net")

    monkeypatch.setattr(storage, "open_for_read", lambda uri: Failing(uri))
    with pytest.raises(ConnectionResetError):
        sources.read(config, partition)
