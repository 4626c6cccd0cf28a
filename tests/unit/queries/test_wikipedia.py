import bz2

import pytest

from pipeline.errors import ConfigError
from pipeline.queries import dump_files, wikipedia
from tests import wikipedia_dump
from tests.wikipedia_dump import KINDS, PAGES, Page

WRITERS = {
    "dump.xml": wikipedia_dump.write_plain,
    "dump.xml.bz2": wikipedia_dump.write_one_stream,
    "dump-multistream.xml.bz2": wikipedia_dump.write_multistream,
    "dump-multistream.xml-p1p99.bz2": wikipedia_dump.write_multistream,
    "unaligned.xml.bz2": wikipedia_dump.write_unaligned,
}
TEXTS = [page.text for page in PAGES if page.title in ("Cat", "New York", "Café")]
MANY = [Page(f"Page {number}", f"text {number} & <b>more</b>") for number in range(60)]
MANY_TEXTS = [page.text for page in MANY]


def read(path, partition_bytes=1 << 30):
    """Articles over all partitions, numbers of pages, and damage."""
    texts, pages, damage = [], {}, []
    for row in wikipedia.plan(str(path), partition_bytes):
        reading = wikipedia.Reading()
        texts += wikipedia.articles(row, reading)
        damage += reading.damage
        for kind, num in reading.pages.items():
            pages[kind] = pages.get(kind, 0) + num
    return texts, pages, damage


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(dump_files, "CHUNK_BYTES", 50)
    monkeypatch.setattr(dump_files, "PLAIN_CHUNK_BYTES", 77)


@pytest.mark.parametrize("name", WRITERS)
def test_articles_are_read_from_every_form_of_dump(tmp_path, name):
    path = WRITERS[name](tmp_path / name, PAGES)
    assert read(path) == (TEXTS, KINDS, [])


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("partition_bytes", [1 << 20, 1500, 400, 97])
def test_partitions_give_the_same_articles(tmp_path, small_chunks, name, partition_bytes):
    path = WRITERS[name](tmp_path / name, PAGES + MANY)
    kinds = KINDS | {"articles": KINDS["articles"] + len(MANY)}
    assert read(path, partition_bytes) == (TEXTS + MANY_TEXTS, kinds, [])


def test_a_page_that_begins_at_a_partitions_last_byte_is_read_once(tmp_path, small_chunks):
    path = wikipedia_dump.write_plain(tmp_path / "a.xml", MANY)
    size, begin = path.stat().st_size, path.read_bytes().find(b"<page>", 3000)
    for cut in range(begin - 1, begin + 8):
        found = []
        for start, end in ((0, cut), (cut, size)):
            reading = wikipedia.Reading()
            found += wikipedia.articles({"path": str(path), "start": start, "end": end}, reading)
            assert not reading.damage
        assert found == MANY_TEXTS


def test_folders_and_globs_leave_index_files_out(tmp_path):
    wikipedia_dump.write_multistream(tmp_path / "b-multistream.xml.bz2", PAGES)
    wikipedia_dump.write_plain(tmp_path / "a.xml", PAGES)
    assert (tmp_path / "b-multistream-index.txt.bz2").exists()
    names = [path.rsplit("/", 1)[-1] for path in wikipedia.dump_paths(str(tmp_path))]
    assert names == ["a.xml", "b-multistream.xml.bz2"]
    assert len(wikipedia.plan(f"{tmp_path}/*.bz2", 1 << 30)) == 1
    with pytest.raises(ConfigError, match="no such file or folder"):
        wikipedia.plan(str(tmp_path / "nothing"), 1 << 30)


def test_the_index_file_tells_where_streams_begin(tmp_path):
    path = wikipedia_dump.write_multistream(tmp_path / "a-multistream.xml.bz2", MANY)
    index = bz2.decompress((tmp_path / "a-multistream-index.txt.bz2").read_bytes()).decode()
    stated = sorted({int(line.split(":")[0]) for line in index.splitlines()})
    content = path.read_bytes()
    found, position = [], 0
    while (position := content.find(b"BZh9", position)) >= 0:
        found.append(position)
        position += 1
    assert found[1:-1] == stated


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("partition_bytes", [1 << 20, 300])
def test_a_cut_dump_gives_what_precedes_and_is_named(tmp_path, small_chunks, name, partition_bytes):
    whole = WRITERS[name](tmp_path / name, MANY).read_bytes()
    path = tmp_path / name
    path.write_bytes(whole[: len(whole) * 2 // 3])
    texts, _, damage = read(path, partition_bytes)
    assert texts == MANY_TEXTS[: len(texts)]
    assert len(texts) >= (20 if name != "dump.xml.bz2" else 0)
    assert len(damage) == 1
    assert damage[0].startswith(f"{name}: byte ")
    assert "cut off" in damage[0]


def test_one_long_stream_gives_its_whole_blocks(tmp_path):
    pages = [Page(f"{number}", f"text {number:09d} " * 3000) for number in range(60)]
    path = wikipedia_dump.write_one_stream(tmp_path / "a.xml.bz2", pages)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    texts, _, damage = read(path)
    assert 10 < len(texts) < 50
    assert texts == [page.text for page in pages[: len(texts)]]
    assert f"the file ends at byte {len(whole) // 2}" in damage[0]


def test_a_dump_that_was_cut_between_two_streams_is_named(tmp_path):
    path = wikipedia_dump.write_multistream(tmp_path / "a-multistream.xml.bz2", MANY, 10)
    content = path.read_bytes()
    last = content.rfind(b"BZh9")
    for place, num_texts in ((last, 60), (content.rfind(b"BZh9", 0, last), 50)):
        path.write_bytes(content[:place])
        for partition_bytes in (1 << 20, 300):
            texts, _, damage = read(path, partition_bytes)
            assert len(texts) == num_texts
            assert damage == [
                f"{path.name}: byte {place}: the file ends without </mediawiki>; it is cut off"
            ]


@pytest.mark.parametrize("partition_bytes", [1 << 20, 400, 150])
def test_a_damaged_stream_does_not_take_the_next_ones_with_it(
    tmp_path, small_chunks, partition_bytes
):
    path = wikipedia_dump.write_multistream(tmp_path / "a-multistream.xml.bz2", MANY, 5)
    content = bytearray(path.read_bytes())
    starts = [at for at in range(len(content)) if content[at : at + 4] == b"BZh9"]
    place = starts[4]
    for offset in range(30, 60):
        content[place + offset] ^= 0x55
    path.write_bytes(content)
    texts, _, damage = read(path, partition_bytes)
    assert texts == MANY_TEXTS[:15] + MANY_TEXTS[20:]
    assert len(damage) == 1
    assert f"byte {place}: the bzip2 stream that begins here is damaged" in damage[0]


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "byte 0: no bzip2 stream begins here"),
        (b"no bzip2 at all, whatever the name says", "byte 0: no bzip2 stream begins here"),
        (bz2.compress(b"<mediawiki></mediawiki>") + b"\0" * 40, "what follows here is no bzip2"),
    ],
)
def test_what_is_no_dump_is_named(tmp_path, content, cause):
    (tmp_path / "a.xml.bz2").write_bytes(content)
    texts, _, damage = read(tmp_path / "a.xml.bz2", 30)
    assert texts == []
    assert len(damage) == 1
    assert cause in damage[0]


def test_text_is_unescaped_once_and_deleted_text_is_empty(tmp_path):
    pages = [Page("A", 'a &amp;lt; <ref> "q"'), Page("B", "gone"), Page("C", "x")]
    path = wikipedia_dump.write_plain(tmp_path / "a.xml", pages)
    content = path.read_text()
    start = content.index("<text", content.index("<title>B"))
    end = content.index("</text>", start) + len("</text>")
    content = content[:start] + '<text bytes="4" deleted="deleted" />' + content[end:]
    path.write_text(content.replace(">x</text>", ">&#233;&#38;lt;&amp;</text>"))
    assert read(path)[0] == [pages[0].text, "", "é&lt;&"]


def test_of_several_revisions_the_last_one_counts(tmp_path):
    path = wikipedia_dump.write_plain(tmp_path / "a.xml", [Page("A", "new")])
    content = path.read_text()
    old = "    <revision>\n      <text>old</text>\n    </revision>\n    <revision>\n"
    path.write_text(content.replace("    <revision>\n", old, 1))
    assert read(path)[0] == ["new"]


def test_link_prefixes_are_those_of_the_dumps_head(tmp_path):
    for name, write in WRITERS.items():
        found = wikipedia.namespaces(str(write(tmp_path / name, PAGES)))
        assert {"datei", "kategorie", "file", "category"} <= found.hidden
        assert {"vorlage", "talk", "template"} <= found.others
    (tmp_path / "a.xml").write_bytes(b"")
    assert read(tmp_path / "a.xml")[2] == [
        "a.xml: byte 0: the file ends without </mediawiki>; it is cut off"
    ]
    assert "file" in wikipedia.namespaces(str(tmp_path / "a.xml")).hidden


def test_an_endless_page_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(wikipedia, "MAX_PAGE_BYTES", 5000)
    pages = [Page("A", "a"), Page("B", "b " * 900_000), Page("C", "c")]
    path = wikipedia_dump.write_plain(tmp_path / "a.xml", pages)
    texts, _, damage = read(path)
    assert texts == ["a", "c"]
    assert damage == ["a.xml: a page of over 5000 bytes is left out"]
