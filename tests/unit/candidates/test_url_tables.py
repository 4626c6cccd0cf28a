import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.candidates import sources, url_tables
from pipeline.candidates.config import UrlTableConfig
from pipeline.errors import ConfigError

ROWS = [
    {"url": "http://a.com/1.jpg", "caption": "one, two", "width": "10"},
    {"url": "http://a.com/2.jpg", "caption": 'a "quoted"\nline', "width": "20"},
    {"url": "http://a.com/3.jpg", "caption": "007", "width": "30"},
]


def config(path, **values):
    return UrlTableConfig(type="url_table", path=str(path), **values)


def read_all(config):
    partitions = sources.plan(config)
    found = [sources.read(config, partition) for partition in partitions]
    return pa.concat_tables([part.table for part in found]), found


def delimited(rows, mark):
    quoted = ['"' + value.replace('"', '""') + '"' for row in rows for value in row.values()]
    lines = [mark.join(quoted[index : index + 3]) for index in range(0, len(quoted), 3)]
    return "\n".join([mark.join(rows[0]), *lines]) + "\n"


def write(path, content):
    data = content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


CONTENT = {
    "csv": delimited(ROWS, ","),
    "tsv": delimited(ROWS, "\t"),
    "json": json.dumps(ROWS),
    "jsonl": "\n".join(json.dumps(row) for row in ROWS),
}


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("kind", CONTENT)
def test_all_text_formats_give_the_same_candidates(tmp_path, kind, ending):
    path = tmp_path / f"table.{kind}{ending}"
    write(path, CONTENT[kind])
    table, found = read_all(config(path, carried_columns=["width"]))
    assert table.column("caption").to_pylist() == [row["caption"] for row in ROWS]
    assert table.column("url").to_pylist() == [row["url"] for row in ROWS]
    assert table.column("width").to_pylist() == ["10", "20", "30"]
    assert found[0].dropped == {}
    assert found[0].damage == []


def test_json_lines_in_a_json_file_are_read(tmp_path):
    write(tmp_path / "table.json", "\n" + CONTENT["jsonl"])
    assert read_all(config(tmp_path / "table.json"))[0].num_rows == 3


def test_parquet_is_cut_at_row_groups_and_any_cut_gives_the_same_rows(tmp_path, monkeypatch):
    path = tmp_path / "table.parquet"
    rows = {"URL": [f"http://a.com/{i}" for i in range(10)], "TEXT": [f"c {i}" for i in range(10)]}
    pq.write_table(pa.table(rows), path, row_group_size=3)
    asked = config(path, url_column="URL", caption_column="TEXT")
    whole, _ = read_all(asked)
    assert [part["num_rows"] for part in url_tables.plan(asked)] == [10]
    monkeypatch.setattr(url_tables, "ROWS_PER_PARTITION", 6)
    assert [part["row_groups"] for part in url_tables.plan(asked)] == [[0, 2], [2, 4]]
    monkeypatch.setattr(url_tables, "ROWS_PER_PARTITION", 1)
    cut, found = read_all(asked)
    assert len(found) == 4
    assert cut.equals(whole)
    assert whole.column("caption").to_pylist() == rows["TEXT"]


def test_dictionary_columns_are_text_and_carried_columns_keep_their_type(tmp_path):
    captions = pa.array(["a", "b"]).dictionary_encode()
    table = pa.table(
        {"url": ["http://a.com/1", "http://a.com/2"], "caption": captions, "w": [1, 2]}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    found, _ = read_all(config(tmp_path / "t.parquet", carried_columns=["w"]))
    assert found.column("caption").to_pylist() == ["a", "b"]
    assert found.schema.field("w").type == pa.int64()


def test_folders_and_globs_are_read_in_order_of_names(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.jsonl", "deep/c.csv", "a.jsonl", "notes.md"):
        write(tmp_path / name, CONTENT["csv" if name.endswith("csv") else "jsonl"])

    def names(path):
        return [p["path"].removeprefix(f"{tmp_path}/") for p in sources.plan(config(path))]

    assert names(tmp_path) == ["a.jsonl", "b.jsonl", "deep/c.csv"]
    assert names(tmp_path / "*.jsonl") == ["a.jsonl", "b.jsonl"]
    assert names(tmp_path / "**" / "*.csv") == ["deep/c.csv"]


def test_identity_does_not_depend_on_the_place(tmp_path):
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "a.jsonl", CONTENT["jsonl"])
    here, there = (sources.identity(config(tmp_path / name)) for name in ("here", "there"))
    assert here == there
    assert [file["name"] for file in here["files"]] == ["a.jsonl"]


def test_broken_rows_are_dropped_and_counted(tmp_path):
    write(tmp_path / "a.jsonl", CONTENT["jsonl"] + '\n{"url": \n[1]\n' + json.dumps(ROWS[0]))
    table, found = read_all(config(tmp_path / "a.jsonl"))
    assert table.num_rows == 4
    assert found[0].dropped == {"unreadable_row": 2}
    write(tmp_path / "a.csv", "url,caption\nhttp://a.com/1,x\nhttp://a.com/2,x,too many\n")
    table, found = read_all(config(tmp_path / "a.csv"))
    assert table.num_rows == 1
    assert found[0].dropped == {"unreadable_row": 1}


@pytest.mark.parametrize("ending", ["csv", "tsv.gz"])
def test_a_row_that_is_no_utf8_falls_and_no_other(tmp_path, ending):
    separator = b"," if ending == "csv" else b"\t"
    rows = [(b"url", b"caption"), *((b"http://a.com/%d.jpg" % i, b"cat") for i in range(99))]
    rows[50] = (b"http://a.com/x.jpg", b"caf\xe9")
    content = b"\n".join(separator.join(row) for row in rows)
    path = tmp_path / f"a.{ending}"
    path.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    config = UrlTableConfig(type="url_table", path=str(path))
    (part,) = sources.plan(config)
    found = sources.read(config, part)
    assert found.table.num_rows == 98
    assert (found.dropped, found.damage) == ({"unreadable_row": 1}, [])


@pytest.mark.parametrize("content", ["[" * 100_000, '{"url": ' + "[" * 100_000])
def test_json_too_deep_to_be_read_is_damage_and_no_crash(tmp_path, content):
    path = tmp_path / "a.jsonl"
    path.write_text('{"url": "http://a.com/1.jpg", "caption": "a"}\n' + content)
    config = UrlTableConfig(type="url_table", path=str(path))
    (part,) = sources.plan(config)
    found = sources.read(config, part)
    assert found.table.num_rows == 1
    assert found.dropped == {"unreadable_row": 1}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_text_table_that_ends_early_gives_its_start_and_is_named(tmp_path, kind):
    texts = [f"c {index * 7919 % 104729}" for index in range(3000)]
    rows = [{"url": f"http://a.com/{i}", "caption": text} for i, text in enumerate(texts)]
    lines = [json.dumps(row) if kind == "jsonl" else ",".join(row.values()) for row in rows]
    head = ["url,caption"] if kind == "csv" else []
    packed = gzip.compress("\n".join([*head, *lines]).encode())
    (tmp_path / f"a.{kind}.gz").write_bytes(packed[: len(packed) // 2])
    asked = config(tmp_path / f"a.{kind}.gz")
    found = sources.read(asked, sources.plan(asked)[0])
    assert found.damage
    assert found.damage[0].startswith(f"a.{kind}.gz: breaks off after")
    captions = found.table.column("caption").to_pylist()
    assert 800 < len(captions) < 2200
    assert captions == texts[: len(captions)]
    assert found.dropped == {}


def test_a_damaged_row_group_is_named_and_the_others_are_read(tmp_path):
    path = tmp_path / "a.parquet"
    texts = [f"caption {i * 7919 % 104729}" for i in range(3000)]
    rows = {"url": [f"http://a.com/{i}" for i in range(3000)], "caption": texts}
    pq.write_table(pa.table(rows), path, row_group_size=1000, compression="zstd")
    asked = config(path)
    partition = sources.plan(asked)[0]
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 400] = bytes(400)
    path.write_bytes(content)
    found = sources.read(asked, partition)
    assert found.table.column("caption").to_pylist() == texts[:1000] + texts[2000:]
    assert len(found.damage) == 1
    assert found.damage[0].startswith("a.parquet: row group 1 is unreadable")


@pytest.mark.parametrize("name", ["b.parquet", "b.csv.gz", "b.json"])
def test_a_file_that_cannot_be_opened_is_named_and_the_others_are_read(tmp_path, name):
    write(tmp_path / "a.jsonl", CONTENT["jsonl"])
    write(tmp_path / "c.jsonl", CONTENT["jsonl"])
    (tmp_path / name).write_bytes(b"[")
    table, found = read_all(config(tmp_path, carried_columns=["width"]))
    assert table.num_rows == 6
    assert [bool(part.damage) for part in found] == [False, True, False]
    assert found[1].damage[0].startswith(f"{name}: unreadable")


def test_carried_columns_have_one_type_over_all_files(tmp_path):
    for name, widths in {"a": [1, 2], "b": [None, None], "c": ["1", "2"]}.items():
        rows = {"url": ["http://a.com/1"] * 2, "caption": ["x"] * 2, "width": widths}
        pq.write_table(pa.table(rows), tmp_path / f"{name}.parquet")
    asked = config(tmp_path, carried_columns=["width"])
    with pytest.raises(ConfigError, match=r"'width' holds int64 in .*a\.parquet and string in .*c"):
        sources.plan(asked)
    (tmp_path / "c.parquet").unlink()
    parts = [sources.read(asked, part).table for part in sources.plan(asked)]
    together = pa.concat_tables(parts, promote_options="default")
    assert together.column("width").to_pylist() == [1, 2, None, None]


def test_half_a_character_in_json_is_replaced(tmp_path):
    write(
        tmp_path / "a.jsonl",
        '{"url": "http://a.com/1", "caption": "cut \\ud83d", "w": ["\\udc00"]}',
    )
    table, _ = read_all(config(tmp_path / "a.jsonl", carried_columns=["w"]))
    assert table.column("caption").to_pylist() == ["cut \ufffd"]
    assert table.column("w").to_pylist() == ['["\ufffd"]']


def test_missing_column_is_named_with_those_that_exist(tmp_path):
    write(tmp_path / "a.csv", "URL,TEXT\nhttp://a.com/1,x\n")
    with pytest.raises(ConfigError, match=r"'url' is not in .*URL, TEXT; did you mean 'URL'\?"):
        sources.plan(config(tmp_path / "a.csv"))
    pq.write_table(pa.table({"url": ["x"], "caption": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"'caption' .* holds int64, expected text"):
        sources.plan(config(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("name", "content"),
    {"a.parquet": "no parquet", "a.csv": "", "a.json": "7", "a.json.gz": None}.items(),
)
def test_what_is_no_table_is_a_configuration_error(tmp_path, name, content):
    if content is None:
        (tmp_path / name).write_bytes(b"no gzip")
    else:
        write(tmp_path / name, content)
    with pytest.raises(ConfigError, match=f"{name} is no readable table"):
        sources.plan(config(tmp_path / name))


def test_wrong_paths_are_configuration_errors(tmp_path):
    with pytest.raises(ConfigError, match="no such file or folder"):
        sources.plan(config(tmp_path / "nothing.csv"))
    write(tmp_path / "a.xlsx", "x")
    with pytest.raises(ConfigError, match="none of its 1 files ends in"):
        sources.plan(config(tmp_path))
    with pytest.raises(ConfigError, match="must end in one of"):
        sources.plan(config(tmp_path / "a.xlsx"))


@pytest.mark.parametrize("names", [["caption"], ["w", "w"], ["query_ids"], ["w", "source_w"]])
def test_a_carried_column_may_not_replace_another(names):
    with pytest.raises(ValueError, match=f"'{names[-1]}' is a candidate's own column"):
        config("a.csv", carried_columns=names)
