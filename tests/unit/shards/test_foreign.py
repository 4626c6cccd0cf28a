"""Other people's tars are read whole, or refused by name."""

import io
import pickle
import tarfile

import pytest

from pipeline.errors import DataError
from pipeline.shards import foreign, tars
from tests.foreign_shards import img2dataset_members, picture, write_tar


def read(path):
    with path.open("rb") as file:
        return list(foreign.read_foreign(file, path.name))


def good(*keys):
    return [member for key in keys for member in img2dataset_members(key, f"caption {key}")]


@pytest.fixture
def tar(tmp_path):
    return write_tar(tmp_path / "00000.tar", good("000000003", "000000001"))


def test_samples_come_in_the_order_of_the_tar(tar):
    samples = read(tar)
    assert [sample.key for sample in samples] == ["000000003", "000000001"]
    assert samples[0].image == picture("000000003")
    assert samples[0].fields()["url"] == "https://host0.example/000000003.jpg"
    assert samples[0].members["txt"] == b"caption 000000003"


def test_a_tar_cut_anywhere_is_refused_by_name(tar):
    whole = tar.read_bytes()
    with tarfile.open(tar) as opened:
        ends = [info.offset for info in opened] + [opened.offset]
    # Between members and inside a header, where common readers return fewer samples in silence;
    # inside a member's body; and inside the end mark.
    for length in {0, 100, *ends, *(end + 200 for end in ends), *(end + 700 for end in ends[:-1])}:
        tar.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"00000\.tar: (cut|no end mark)"):
            read(tar)


def test_one_flipped_byte_of_any_header_is_refused_by_name(tar):
    whole = tar.read_bytes()
    with tarfile.open(tar) as opened:
        offsets = [info.offset for info in opened]
    for place in [offset + within for offset in offsets for within in (0, 110, 130, 150)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        tar.write_bytes(damaged)
        with pytest.raises(DataError, match=r"00000\.tar"):
            read(tar)


def test_joined_tars_are_refused_because_the_second_would_be_lost(tar):
    tar.write_bytes(tar.read_bytes() * 2)
    with pytest.raises(DataError, match="joined"):
        read(tar)


@pytest.mark.parametrize(
    "bad",
    [
        ("../b.jpg", b"x"),
        ("/etc/b.jpg", b"x"),
        ("a/../../b.jpg", b"x"),
        ("b.jpg", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
        ("b.jpg", b"", {"type": tarfile.LNKTYPE, "linkname": "000000001.jpg"}),
        ("b.jpg", b"", {"type": tarfile.CHRTYPE}),
    ],
)
def test_members_that_lead_out_are_refused(tmp_path, bad):
    path = write_tar(tmp_path / "00000.tar", [*good("000000001"), bad])
    with pytest.raises(DataError, match=r"00000\.tar: member .* is no plain file inside"):
        read(path)


class Exploit:
    def __reduce__(self):
        return (open, ("/nonexistent/was-unpickled", "w"))


@pytest.mark.parametrize("extension", ["pyd", "pkl", "pickle", "pt", "npy", "pth", "cls"])
def test_members_of_other_kinds_are_neither_read_nor_unpickled(tmp_path, extension):
    bad = (f"000000001.{extension}", pickle.dumps(Exploit()))
    (sample,) = read(write_tar(tmp_path / "a.tar", [*good("000000001"), bad]))
    assert set(sample.members) == {"jpg", "json", "txt"}
    assert sample.drop_reason is None


def test_folders_long_names_and_hidden_files_are_no_hindrance(tmp_path):
    folder = ("./part", b"", {"type": tarfile.DIRTYPE})
    name = "./part/" + "n" * 120
    members = [
        folder,
        ("./part/._x.jpg", b"?"),
        (f"{name}.jpg", picture("n")),
        (f"{name}.txt", b"w"),
    ]
    (sample,) = read(write_tar(tmp_path / "a.tar", members, format=tarfile.PAX_FORMAT))
    assert sample.key == name.removeprefix("./")
    key = foreign.dataset_key(sample.key, "a.tar", with_shard=False)
    assert len(key) == 32
    assert key != foreign.dataset_key(sample.key, "a.tar", with_shard=True)


def test_plain_keys_stay_and_may_be_told_apart_by_their_tar():
    assert foreign.dataset_key("000000001", "00007.tar", with_shard=False) == "000000001"
    assert foreign.dataset_key("000000001", "00007.tar", with_shard=True) == "00007-000000001"


@pytest.mark.parametrize(
    ("members", "reasons"),
    [
        ([("a.txt", b"w")], ["no_picture"]),
        ([("a.b.jpg", picture("a")), ("a.txt", b"w")], ["no_picture"]),
        ([("a.jpg", picture("a")), ("a.png", picture("a")), ("a.txt", b"w")], ["several_pictures"]),
        ([("a.jpg", picture("a")), ("a.jpg", picture("b"))], ["repeated_member"]),
        (
            [("a.jpg", picture("a")), ("b.jpg", picture("b")), ("a.txt", b"w")],
            [None, None, "repeated_key"],
        ),
        ([("a.jpg", picture("a")), ("a.json", b"{cut")], ["unreadable_json"]),
        ([("a.jpg", picture("a")), ("a.json", b"[1]")], ["unreadable_json"]),
        ([("a.jpg", picture("a")), ("a.json", b"[" * 100_000)], ["unreadable_json"]),
    ],
)
def test_samples_with_wrong_members_have_a_reason(tmp_path, members, reasons):
    samples = read(write_tar(tmp_path / "a.tar", members))
    assert [sample.drop_reason for sample in samples] == reasons


def test_a_manifest_beside_a_tar_is_believed_and_a_changed_tar_is_not(tar):
    import json

    facts = foreign.identify(str(tar))
    beside = tar.with_name("00000.manifest.json")
    beside.write_text(json.dumps(foreign.manifest_of(facts, 2)))
    assert foreign.identify(str(tar)) == facts
    content = bytearray(tar.read_bytes())
    content[600] ^= 1
    tar.write_bytes(content)
    with pytest.raises(DataError, match=r"00000\.tar: sha256 differ from .*00000\.manifest\.json"):
        foreign.identify(str(tar))


def test_a_stated_count_of_samples_is_compared(tar):
    tar.with_name("00000_stats.json").write_text('{"successes": 3}')
    foreign.check_stated_count(str(tar), 3)
    with pytest.raises(DataError, match=r"00000\.tar: 2 samples, .*00000_stats\.json says 3"):
        foreign.check_stated_count(str(tar), 2)


def test_only_the_data_sets_samples_are_handed_out(tar):
    entry = {**foreign.identify(str(tar)), "num_samples": 1}
    found = list(foreign.read_adopted(str(tar), entry, {"000000001"}, with_shard=False))
    assert found == [("000000001", picture("000000001"))]
    with pytest.raises(DataError, match="2 samples of the data set, its manifest says 1"):
        list(foreign.read_adopted(str(tar), entry, {"000000001", "000000003"}, with_shard=False))


def test_a_compressed_tar_is_refused(tmp_path):
    path = tmp_path / "00000.tar"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz"):
        pass
    path.write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match=r"00000\.tar: cut or damaged"):
        read(path)


def header(name, size, kind=b"0"):
    """A USTAR header with any ``size`` field."""
    block = bytearray(512)
    block[: len(name)], block[100:108], block[124:136] = name, b"0000644\0", size
    block[108:124] = b"0000000\0" * 2
    block[136:148], block[156:157], block[257:265] = b"00000000000\0", kind, b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def octal(size):
    return b"%011o\0" % size


def binary(size):
    """A number that is too large for octal digits, or negative."""
    return (size % (1 << 96) | (1 << 95)).to_bytes(12, "big")


def pax(**records):
    """An extended header."""
    text = b""
    for name, value in records.items():
        line = f" {name.replace('_', '.')}={value}\n".encode()
        length = len(line) + len(str(len(line) + 2))
        text += str(length).encode() + line
    assert len(text) <= 512
    return header(b"PaxHeader/x", octal(len(text)), b"x") + text.ljust(512, b"\0")


FILE = header(b"a.jpg", octal(512)) + bytes(512)
HOSTILE = {
    "sparse 1.0": pax(GNU_sparse_major="1", GNU_sparse_minor="0", GNU_sparse_name="a.jpg")
    + header(b"a.jpg", octal(512))
    + b"abc\nxyz\n".ljust(512, b"\0"),
    "sparse 0.1": pax(GNU_sparse_map="a,b", GNU_sparse_size="4") + FILE,
    "sparse 0.0": pax(GNU_sparse_size="x", GNU_sparse_offset="y") + FILE,
    "chained": pax(a="b") * 3000 + FILE,
    "long name": header(b"@LongLink", binary(1 << 60), b"L") + FILE,
    "longer name": header(b"@LongLink", binary(1 << 80), b"L") + FILE,
    "negative name": header(b"@LongLink", binary(-1024), b"L") + FILE,
    "negative": header(b"a.jpg", binary(-512)) + FILE,
    "negative behind": FILE + header(b"b.bin", binary(-4096)),
    "huge": FILE + header(b"b.bin", binary(1 << 80)),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("read_tar", [foreign.read_foreign, tars.read_tar])
def test_headers_that_the_standard_library_stumbles_over_are_damage(tmp_path, name, read_tar):
    path = tmp_path / "00000.tar"
    path.write_bytes(HOSTILE[name] + bytes(1024))
    with path.open("rb") as file, pytest.raises(DataError, match=r"00000\.tar"):
        list(read_tar(file, path.name))


@pytest.mark.parametrize("ending", ["_stats.json", ".manifest.json"])
@pytest.mark.parametrize("text", ['{"successes": 2', "[1]", "null", "[" * 100_000, "\xff", "3"])
def test_files_beside_a_tar_that_nobody_can_read_are_damage(tar, ending, text):
    beside = tar.with_name(f"00000{ending}")
    beside.write_text(text, "latin-1")
    with pytest.raises(DataError, match=rf"00000{ending} (is no JSON|holds a)"):
        foreign.identify(str(tar))
        foreign.check_stated_count(str(tar), 2)


@pytest.mark.parametrize("text", [b"{cut", b"[1]", b"[" * 100_000])
def test_our_own_metadata_is_checked_too(text):
    with pytest.raises(DataError, match=r"a\.json"):
        tars.RawSample("a", {"jpg": b"", "json": text}).captions()
