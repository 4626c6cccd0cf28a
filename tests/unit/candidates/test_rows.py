import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.candidates import rows, schema, urls


def test_rows_become_candidates_and_drops_are_counted():
    found = rows.build(
        rows.RawRows(
            urls=["http://a.com/1", "nowhere", None, "http://a.com/2", "HTTP://A.com/3"],
            captions=["  a cat\n", "lost", "lost", " \t", "e\u0301"],
            licences=["by", None, None, None, None],
            carried=pa.table({"width": [1, 2, 3, 4, 5]}),
        )
    )
    assert found.table.column(schema.CAPTION).to_pylist() == ["a cat", "\u00e9"]
    assert found.table.column(schema.URL).to_pylist() == ["http://a.com/1", "http://a.com/3"]
    assert found.table.column(schema.LICENCE).to_pylist() == ["by", None]
    assert found.table.column("width").to_pylist() == [1, 5]
    assert found.dropped == {schema.INVALID_URL: 2, schema.EMPTY_CAPTION: 1}


def test_table_has_the_stated_schema():
    found = rows.build(rows.RawRows(urls=["http://a.com/1"], captions=["x"]))
    assert found.table.schema == schema.CANDIDATE
    assert rows.empty().schema == schema.CANDIDATE
    assert schema.matched(schema.CANDIDATE) == schema.MATCHED


def test_prefix_goes_before_paths_and_not_before_addresses():
    prefix = "http://127.0.0.1:8900/"
    found = rows.build(
        rows.RawRows(
            urls=["a/b.jpg", "https://c.com/d.jpg"], captions=["x", "y"], url_prefix=prefix
        )
    )
    assert found.table.column(schema.URL).to_pylist() == [
        "http://127.0.0.1:8900/a/b.jpg",
        "https://c.com/d.jpg",
    ]


@settings(deadline=None)  # tests may share the machine
@given(st.lists(st.tuples(st.none() | st.text(max_size=9), st.none() | st.text(max_size=9))))
def test_every_row_is_kept_or_dropped_once(pairs):
    found = rows.build(
        rows.RawRows(
            urls=[url and f"http://a.com/{url}" for url, _ in pairs],
            captions=[caption for _, caption in pairs],
        )
    )
    assert found.table.num_rows + sum(found.dropped.values()) == len(pairs)
    for row in found.table.to_pylist():
        assert row["url_id"] == urls.url_id(row["url"])
        assert row["uid"] == urls.uid(row["url_id"], row["caption"])
