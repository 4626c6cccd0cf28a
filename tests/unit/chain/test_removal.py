"""Removed samples are in no keep-list made from now on, and whoever held them is named."""

import pyarrow.parquet as pq
import pytest

from pipeline import results
from pipeline.candidates import urls
from pipeline.chain import given, removal
from pipeline.chain.lineage import as_text, lineage
from pipeline.chain.plan import recorded
from pipeline.chain.stages import stages
from pipeline.curation import memory
from pipeline.errors import ConfigError
from pipeline.images.fetch import Target
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.removal_requests import parse
from pipeline.shards.removals import Removals
from pipeline.shards.verify import verify
from tests.kept_run import make_run, rows_of, said, selected, tree, without_ray


@pytest.fixture
def run(tmp_path, monkeypatch):
    without_ray(monkeypatch)
    return make_run(tmp_path)


def some_rows(run, number=8):
    dataset = CuratedDataset(recorded(run)["curate"])
    rows = [row for shard in range(6) for row in dataset.rows(shard).to_pylist()]
    return rows[3 : 3 + number]


def entries(rows, kind="key"):
    return parse([f"{kind}={row[kind]}" for row in rows], 4)


def found_of(found, kind):
    return [each for each in found if each["artefact"] == kind]


def test_a_new_version_of_every_list_holds_none_of_them_and_the_old_one_stays(run):
    before, old = rows_of(run), selected(run)
    files = tree(results.storage.local_path(old.uri))
    gone = {row["key"] for row in some_rows(run)}
    told = removal.remove(run, entries(some_rows(run)), said())
    assert (told["added"], told["samples"], told["opt_outs"]) == (8, 8, 8)
    assert told["select"] == selected(run).uri != old.uri
    for profile in ("all", "generative"):
        now = rows_of(run, profile)
        assert {now[key]["drop_reason"] for key in gone} == {"removed"}
        assert not any(now[key]["kept"] for key in gone)
    rest = {key: row for key, row in rows_of(run).items() if key not in gone}
    assert rest == {key: row for key, row in before.items() if key not in gone}
    assert tree(results.storage.local_path(old.uri)) == files
    for version in (old, selected(run)):
        known = {**recorded(run), "select": version}
        assert verify(known, decode=False).problems == []
    assert recorded(run).keys() == {"curate", "embed", "score", "select"}


def test_their_addresses_are_never_asked_for_again(run):
    rows = some_rows(run)
    removal.remove(run, [*entries(rows), *parse(["url=http://new.example/a.jpg"], 4)], said())
    folder = f"{run.output_dir}/opt_outs"
    found = [
        row
        for name in results.storage.list_names(folder)
        for row in pq.read_table(f"{folder}/{name}").to_pylist()
    ]
    assert {row["url"] for row in found} == {row["url"] for row in rows} | {
        "http://new.example/a.jpg"
    }
    assert {row["drop_reason"] for row in found} == {"removed"}
    opted_out = {row["key"]: row for row in found}
    target = Target(urls.url_id("http://new.example/a.jpg"), "http://new.example/a.jpg")
    assert memory.Memory(opted_out, {}).decide(target).drop_reason == "removed"


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    ("point", "passage"),
    [
        ("storage.before_rename", 3),
        ("storage.after_rename", 2),
        ("storage.before_rename", 9),
        ("results.before_manifest", 1),
        ("results.after_manifest", 1),
    ],
)
def test_whatever_dies_on_the_way_the_same_command_goes_on(tmp_path, monkeypatch, point, passage):
    without_ray(monkeypatch)
    whole, broken = make_run(tmp_path / "whole"), make_run(tmp_path / "broken")
    asked = entries(some_rows(whole))
    expected = removal.remove(whole, asked, said())
    passed = []

    def failpoint(name):
        passed.append(name)
        if name == point and passed.count(name) == passage:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(results, "failpoint", failpoint)
        patch.setattr(results.storage, "failpoint", failpoint)
        try:
            removal.remove(broken, asked, said())
        except Killed:
            assert point in passed
    again = removal.remove(broken, asked, said())
    assert again["kept"] == expected["kept"]
    assert selected(broken).manifest_hash == selected(whole).manifest_hash
    assert rows_of(broken) == rows_of(whole)


def test_what_holds_them_is_listed_before_anything_is_removed(run):
    rows = some_rows(run)
    before = tree(results.storage.local_path(run.output_dir))
    found = list(removal.preview(run, entries(rows, "url")))
    assert tree(results.storage.local_path(run.output_dir)) == before
    shards = found_of(found, "shard")
    assert [each["file"] for each in shards] == ["shards/00000.tar", "shards/00001.tar"]
    assert [s["key"] for each in shards for s in each["samples"]] == [row["key"] for row in rows]
    assert [each["file"] for each in found_of(found, "view")] == [
        "views/16/00000.tar",
        "views/16/00001.tar",
    ]
    assert len(found_of(found, "embedding")) == 2
    assert len(found_of(found, "score")) == 2
    lists = {each["profile"]: each for each in found_of(found, "keep_list")}
    assert set(lists) == {"all", "generative"}
    assert all(each["current"] for each in lists.values())
    total = found[-1]
    assert (total["samples"], total["shards"], total["keep_lists"], total["models"]) == (8, 2, 2, 0)


def test_every_version_is_listed_with_what_it_says_of_a_sample(run):
    (row,) = some_rows(run, 1)
    removal.remove(run, entries([row]), said())
    lists = found_of(lineage(run.output_dir, Removals(entries([row]))), "keep_list")
    by_version = {(each["current"], each["profile"]): each["samples"][0] for each in lists}
    assert len(by_version) == 4
    assert by_version[False, "all"]["kept"]
    assert by_version[False, "all"]["split"] == by_version[True, "all"]["split"]
    assert by_version[True, "all"]["drop_reason"] == "removed"
    spoken = [as_text(each) for each in lineage(run.output_dir, Removals(entries([row])))]
    assert sum("(an older version)" in line for line in spoken) >= 2
    assert spoken[-1].startswith("total: 1 samples, 1 data sets")


def test_a_removal_that_names_nothing_here_is_noted_all_the_same(run):
    told = removal.remove(run, parse(["domain=elsewhere.example"], 4), said())
    assert (told["added"], told["samples"]) == (1, 0)
    again = removal.remove(run, parse(["domain=elsewhere.example"], 4), said())
    assert (again["added"], again["select"]) == (0, told["select"])


def test_without_removals_no_identity_knows_of_them_and_with_them_clip_and_lists_do(run):
    def inputs():
        return {stage.name: stage.inputs for stage in stages(run)}

    assert not any(given.REMOVALS in each for each in inputs().values())
    assert given.removals_and_other_runs(run) == {}
    removal.remove(run, parse(["key=k1"], 4), said())
    assert [name for name, each in inputs().items() if given.REMOVALS in each] == ["select"]
    clip = {"task": {"type": "clip", "model": CLIP}, "profile": "clip"}
    section = {**run.prior.model_dump(mode="json"), **clip}
    own = type(run).model_validate({**run.model_dump(), "open_clip": None, "clip": section})
    assert given.inputs_of(own, "clip", own.clip) == (given.REMOVALS,)


CLIP = {
    "embed_dim": 6,
    "vision": {"image_px": 8, "patch_px": 4, "width": 8, "layers": 1, "heads": 2},
    "text": {"width": 8, "layers": 1, "heads": 2},
}


def test_takedowns_of_the_run_file_reach_clip_too(run):
    section = run.select.model_copy(update={"remove_keys": ("k1",)})
    asked = run.model_copy(update={"select": section})
    assert [each.value for each in given.removed(asked).entries] == ["k1"]
    assert given.removals_and_other_runs(asked).keys() == {given.REMOVALS}


def test_a_folder_without_a_data_set_is_refused(run, tmp_path):
    empty = run.model_copy(update={"output_dir": str(tmp_path / "empty")})
    with pytest.raises(ConfigError, match=r"does not exist"):
        removal.remove(empty, parse(["key=k1"], 4), said())
