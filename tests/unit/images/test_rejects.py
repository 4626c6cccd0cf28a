import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.images.rejects import Rejects, merge

PAIR = pa.schema([(name, pa.string()) for name in ("uid", "url_id", "url", "caption")])


def pair(uid):
    return {"uid": uid, "url_id": f"key {uid}", "url": f"http://a.com/{uid}", "caption": uid}


def collected(uids, limit=3, reason="too_small"):
    rejects = Rejects(limit)
    for uid in uids:
        rejects.drop(reason, pair(uid))
    return rejects


def test_all_are_counted_and_the_smallest_uids_are_kept():
    rejects = collected(["e", "b", "d", "a", "c"])
    assert rejects.dropped == {"too_small": 5}
    assert rejects.table().column("uid").to_pylist() == ["a", "b", "c"]


@given(st.lists(st.integers(0, 50).map(str)), st.integers(0, 5))
def test_a_table_is_dropped_like_its_rows(uids, limit):
    rejects = Rejects(limit)
    for rows in (uids[::2], uids[1::2]):
        table = pa.Table.from_pylist([pair(uid) for uid in rows], schema=PAIR)
        rejects.drop_table("too_small", table)
    assert rejects.table().equals(collected(uids, limit).table())
    assert rejects.dropped == collected(uids, limit).dropped


def test_a_pair_offered_with_its_picture_keeps_it():
    rejects = Rejects(2)
    rejects.offer("too_small", pair("a"), Image.new("RGB", (300, 200)))
    rejects.drop("too_small", pair("a"))
    row = rejects.table().to_pylist()[0]
    assert row["thumbnail"].startswith(b"\xff\xd8\xff")
    assert rejects.dropped == {"too_small": 1}


def test_nothing_is_kept_with_a_limit_of_zero():
    assert collected(["a"], limit=0).table().num_rows == 0


@given(st.lists(st.integers(0, 50).map(str)), st.integers(0, 5))
def test_merging_partitions_gives_what_one_partition_gives(uids, cut):
    parts = [collected(uids[:cut]).table(), collected(uids[cut:]).table()]
    assert merge(parts, 3).equals(collected(uids).table())
