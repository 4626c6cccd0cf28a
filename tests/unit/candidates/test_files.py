import errno
import gzip
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import storage
from pipeline.candidates import files, sources
from pipeline.candidates.config import UrlTableConfig
from pipeline.errors import ConfigError


@pytest.mark.parametrize("name", ["birds [2020]", "what?", "a*b"])
def test_what_is_there_is_no_pattern(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "a.csv").write_text("x")
    expected = [str(folder / "a.csv")]
    assert files.expand(str(folder), (".csv",)) == expected
    assert files.expand(str(folder / "a.csv"), (".csv",)) == expected
    assert files.expand(f"{tmp_path}/*/a.csv", (".csv",)) == expected


def test_a_remote_folder_of_files_of_any_name_is_a_folder():
    import fsspec

    fsspec.filesystem("memory").pipe("/views/a", b"x")
    assert files.expand("memory://views", files.ANY_ENDING) == ["memory:///views/a"]
    assert files.expand("memory://views/a", files.ANY_ENDING) == ["memory://views/a"]


def breaking(content):
    """A reader that raises where the content ends, as gzip does."""
    source = io.BytesIO(content)

    def read(size):
        chunk = source.read(min(size, 5))
        if not chunk:
            raise EOFError("no end")
        return chunk

    return read


@settings(deadline=None)  # tests may share the machine
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


@pytest.mark.parametrize("name", ["wat.paths", "wat.paths.gz"])
def test_a_list_names_its_files_in_its_order(tmp_path, name):
    lines = "crawl/b.wat.gz\n\n  crawl/a.wat.gz \r\ns3://other/c.wat.gz\n"
    content = gzip.compress(lines.encode()) if name.endswith(".gz") else lines.encode()
    (tmp_path / name).write_bytes(content)
    path = str(tmp_path / name)
    assert files.is_list(path)
    assert files.listed(path, "https://data.example/", (".wat.gz",)) == [
        "https://data.example/crawl/b.wat.gz",
        "https://data.example/crawl/a.wat.gz",
        "s3://other/c.wat.gz",
    ]
    assert files.listed(path, str(tmp_path), (".wat.gz",))[0] == f"{tmp_path}/crawl/b.wat.gz"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"crawl/a.warc.gz", "names 'crawl/a.warc.gz', which does not end in one of .wat.gz"),
        (b"\n \n", "names no file"),
        (b"\xff\xfe", "no readable list"),
    ],
)
def test_a_list_that_is_none_is_a_configuration_error(tmp_path, content, message):
    (tmp_path / "wat.paths").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        files.listed(str(tmp_path / "wat.paths"), "", (".wat.gz",))
    with pytest.raises(ConfigError, match="no such file"):
        files.listed(str(tmp_path / "gone.paths"), "", (".wat.gz",))


def test_a_relative_path_is_made_absolute_for_workers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("x")
    assert files.expand("a.csv", (".csv",)) == [str(tmp_path / "a.csv")]
