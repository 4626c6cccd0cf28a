import io
import pickle
import tarfile

import pytest
from PIL import Image

from pipeline.errors import DataError
from pipeline.results import publish_result
from pipeline.shards import manifest
from pipeline.shards.reader import open_dataset
from pipeline.shards.tars import read_shard, read_tar
from pipeline.shards.writer import TarShardWriter, texts


class File(io.BytesIO):
    """A file in memory that has what the type of an open file demands."""

    name, mode = "memory", "rb+"


def picture(colour=(200, 30, 30)):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write(path, *keys):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        tar = TarShardWriter(file)
        for key in keys:
            metadata = {"key": key, "captions": [f"caption {key}", "other"], "uids": ["1", "2"]}
            tar.add(texts(metadata), picture(), "png")
        return tar.close(path.name, "x").as_json()


def test_samples_come_back_in_order(tmp_path):
    entry = write(tmp_path / "00000.tar", "a", "b", "c")
    samples = list(read_shard(str(tmp_path / "00000.tar"), entry))
    assert [sample.key for sample in samples] == ["a", "b", "c"]
    assert samples[1].captions() == ("caption b", "other")
    assert samples[1].image == picture()
    assert samples[1].extension == "png"
    assert samples[1].metadata()["uids"] == ["1", "2"]


@pytest.mark.parametrize("place", [0, 124, 700, 1500, -1])
def test_one_flipped_byte_anywhere_is_refused_by_name(tmp_path, place):
    path = tmp_path / "00000.tar"
    entry = write(path, "a", "b")
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"00000\.tar: sha256"):
        next(read_shard(str(path), entry))


@pytest.mark.parametrize("length", [0, 512, 3000, -512])
def test_a_cut_shard_is_refused_by_name(tmp_path, length):
    path = tmp_path / "00000.tar"
    entry = write(path, "a", "b")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match=r"00000\.tar: \d+ bytes, its manifest says"):
        next(read_shard(str(path), entry))


def test_a_missing_shard_is_refused_by_name(tmp_path):
    entry = write(tmp_path / "00000.tar", "a")
    with pytest.raises(DataError, match=r"00001\.tar: the shard is missing"):
        next(read_shard(str(tmp_path / "00001.tar"), entry))


def test_fewer_samples_than_the_manifest_says_are_refused(tmp_path):
    entry = write(tmp_path / "00000.tar", "a") | {"num_samples": 2}
    with pytest.raises(DataError, match="1 samples, its manifest says 2"):
        list(read_shard(str(tmp_path / "00000.tar"), entry))


def tar_of(*members, **options):
    file = File()
    with tarfile.open(fileobj=file, mode="w", **options) as tar:
        for name, content, *changes in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in dict(*changes).items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(content))
    file.seek(0)
    return file


def read(*members, **options):
    return list(read_tar(tar_of(*members, **options), "some.tar"))


GOOD = ("a.png", picture()), ("a.txt", b"words")


@pytest.mark.parametrize(
    "bad",
    [
        ("../b.png", b"x"),
        ("/etc/b.png", b"x"),
        ("folder/b.png", b"x"),
        ("b.png", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
        ("b.png", b"", {"type": tarfile.LNKTYPE, "linkname": "a.png"}),
        ("b.png", b"", {"type": tarfile.CHRTYPE}),
        ("b.png", b"", {"type": tarfile.FIFOTYPE}),
        ("b", b"", {"type": tarfile.DIRTYPE}),
        (".png", b"x"),
    ],
)
def test_members_that_are_no_plain_files_of_a_shard_are_refused(bad):
    with pytest.raises(DataError, match=r"some\.tar: member"):
        read(*GOOD, bad)


def test_a_name_twice_and_a_key_in_two_places_are_refused():
    with pytest.raises(DataError, match="appears twice"):
        read(*GOOD, ("a.png", picture()))
    with pytest.raises(DataError, match="two places"):
        read(*GOOD, ("b.png", picture()), ("b.txt", b"w"), ("a.json", b"{}"))


def test_a_sample_needs_one_picture_and_a_text():
    with pytest.raises(DataError, match="2 pictures"):
        read(*GOOD, ("a.jpg", b"x"))
    with pytest.raises(DataError, match="0 texts"):
        read(("a.png", picture()))


class Exploit:
    def __reduce__(self):
        return (open, ("/nonexistent/was-unpickled", "w"))


@pytest.mark.parametrize("extension", ["pyd", "pkl", "pickle", "pt", "npy", "cls", "py", "pth"])
def test_members_of_other_kinds_are_neither_read_nor_unpickled(extension):
    (sample,) = read(*GOOD, (f"a.{extension}", pickle.dumps(Exploit())))
    assert set(sample.members) == {"png", "txt"}


def test_other_peoples_tars_with_long_headers_are_read():
    (sample,) = read(
        ("a.png", picture(), {"mtime": 1.5}), ("a.txt", b"words"), format=tarfile.PAX_FORMAT
    )
    assert sample.captions() == ("words",)
    assert sample.metadata() == {}


@pytest.fixture
def stage(tmp_path):
    shards = [write(tmp_path / "shards" / f"0000{i}.tar", f"{i}a", f"{i}b") for i in range(2)]
    views = [write(tmp_path / "views" / "64" / f"0000{i}.tar", f"{i}a") for i in range(2)]
    content = {
        "shards": shards,
        "views": {"64": views},
        "funnel": manifest.funnel(9, 4, {"a": 5}),
        "num_samples": 4,
    }
    publish_result(
        str(tmp_path),
        stage="curate",
        identity="x",
        config={},
        inputs={},
        content=content,
        circumstance={},
    )
    return str(tmp_path)


def test_a_data_set_is_opened_and_iterated(stage):
    dataset = open_dataset(stage)
    assert len(dataset) == 4
    assert dataset.funnel["kept"] == 4
    samples = list(dataset)
    assert [sample.key for sample in samples] == ["0a", "0b", "1a", "1b"]
    assert samples[0].image.getpixel((3, 3)) == (200, 30, 30)
    assert samples[0].captions == ("caption 0a", "other")


def test_views_are_opened_by_their_side(stage):
    assert [sample.key for sample in open_dataset(stage, 64)] == ["0a", "1a"]
    with pytest.raises(DataError, match="no views of 256 px"):
        open_dataset(stage, 256)


def test_reading_a_data_set_imports_no_torch():
    import subprocess
    import sys

    code = "import pipeline.shards.reader, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
