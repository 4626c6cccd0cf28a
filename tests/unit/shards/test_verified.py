"""What a store sends is used when it is what the manifest says, in memory or on the local disk."""

import hashlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import storage
from pipeline.errors import DataError
from pipeline.shards import verified as module
from pipeline.shards.verified import verified

CONTENT = bytes(range(256)) * 40


@pytest.fixture(params=["memory", "disk"])
def uri(request, monkeypatch, tmp_path):
    monkeypatch.setattr(storage, "PIECE_BYTES", 1000)
    if request.param == "disk":
        monkeypatch.setattr(module, "IN_MEMORY_BYTES", len(CONTENT) - 1)
    place = f"memory://{tmp_path.name}/00000.tar"
    storage.write_bytes(place, CONTENT)
    return place


def entry(content=CONTENT):
    return {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_a_file_of_a_store_is_read_as_one_of_this_machine(uri):
    with verified(uri, entry()) as file:
        assert file.read(300) == CONTENT[:300]
        file.seek(-256, io.SEEK_END)
        assert (file.tell(), file.read()) == (len(CONTENT) - 256, CONTENT[-256:])


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"\0", b""])
def test_another_length_is_refused(uri, content):
    storage.write_bytes(uri, content)
    with pytest.raises(DataError, match=rf"{len(content)} bytes, its manifest says"):
        verified(uri, entry()).__enter__()


def test_other_bytes_are_refused(uri):
    with pytest.raises(DataError, match=r"00000\.tar: sha256"):
        verified(uri, entry(CONTENT[::-1])).__enter__()


def test_a_missing_one_is_refused_but_what_its_user_misses_is_not_ours(uri):
    with pytest.raises(DataError, match="the shard is missing"):
        verified(f"{uri}.gone", entry()).__enter__()
    with pytest.raises(FileNotFoundError, match="another"), verified(uri, entry()):
        raise FileNotFoundError("another")


@given(
    pieces=st.lists(st.binary(max_size=30), max_size=6),
    asked=st.lists(st.tuples(st.sampled_from(["read", "seek"]), st.integers(0, 200))),
)
def test_pieces_are_read_as_the_file_that_they_make(pieces, asked):
    whole = io.BytesIO(b"".join(pieces))
    file = io.BufferedReader(module._Pieces(pieces), 8)
    for what, number in asked:
        assert getattr(file, what)(number) == getattr(whole, what)(number)
        assert file.tell() == whole.tell()
