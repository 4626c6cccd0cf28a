"""The card's numbers are those of the manifests and tables; nothing in the data becomes markup."""

import re
from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pytest

from pipeline import storage
from pipeline.chain.card import write_run_card
from pipeline.config import load_run
from pipeline.errors import ConfigError, StorageError
from pipeline.looking import html, markdown, terms
from pipeline.looking import tally as tallies
from pipeline.looking.card import page, read_run, write_card
from pipeline.looking.page import Table
from pipeline.looking.scores import Scored
from pipeline.looking.tally import BALANCED, IN_SHARDS, tally
from pipeline.run_file import RunFile
from pipeline.shards.writer import publish_table
from tests.well_formed import checked


@pytest.fixture(scope="module")
def run(looked, tmp_path_factory):
    ledgers = tmp_path_factory.mktemp("ledgers")
    out = pa.table({"key": ["a", "b"], "drop_reason": ["opted_out_image", "opted_out_site"]})
    publish_table(f"{ledgers}/opt_outs/1.parquet", out)
    publish_table(f"{ledgers}/opt_outs/2.parquet", out.slice(1))
    return read_run(looked.uri, "/data/secret place/pairs.parquet", f"{ledgers}/opt_outs")


def tables(run, name):
    section = next(section for section in page(run).sections if section.name == name)
    return [block for block in section.blocks if isinstance(block, Table)]


def column(table, name, of=0):
    place = table.heading.index(name)
    return {row[of]: row[place] for row in table.rows}


def test_the_funnel_is_that_of_the_manifests_and_adds_up(run, looked):
    (table,) = tables(run, "funnel")
    numbers = column(table, "number")
    funnel = looked.results["curate"].content["funnel"]
    kept, total = numbers.pop("kept pairs"), numbers.pop("all candidates")
    assert (total, kept) == (funnel["candidates"], funnel["kept"])
    assert {k.replace(" ", "_"): v for k, v in numbers.items()} == funnel["dropped"]
    assert total == kept + sum(numbers.values())
    where = column(table, "where they fell")
    assert where["over query limit"] == "before the crawl"
    assert where["http error"] == "crawl and pictures"


def test_selection_is_that_of_the_manifest(run, looked):
    for table, profile in zip(tables(run, "selection"), ("clip", "generative"), strict=True):
        entry = looked.results["select"].content["profiles"][profile]
        numbers = column(table, "number")
        assert numbers.pop("kept") == sum(entry["kept"].values())
        assert {split: numbers.pop(f"of these for {split}") for split in entry["kept"]} == entry[
            "kept"
        ]
        assert {k.replace(" ", "_"): v for k, v in numbers.items()} == entry["dropped"]


def test_licences_and_domains_are_counted_over_all_samples_and_per_profile(run, looked):
    kept = [row for row in looked.rows if row["outcomes"]["generative"] == "kept"]
    for name, what in (
        ("licences", lambda row: row["licence"] or "unknown"),
        ("domains", lambda row: re.sub(r"https://img\.(host\d\.co\.uk)/.*", r"\1", row["url"])),
    ):
        (table,) = tables(run, name)
        assert column(table, IN_SHARDS) == Counter(map(what, looked.rows))
        assert column(table, "kept by clip") == column(table, IN_SHARDS)
        assert column(table, "kept by generative") == Counter(map(what, kept))
    (table,) = tables(run, "licences")
    assert column(table, IN_SHARDS) == looked.results["curate"].content["licences"]


def test_sources_tell_files_and_settings_but_no_path(run):
    settings, numbers = tables(run, "sources")
    assert column(settings, "value")["name"] == "pairs.parquet"
    expected = {"files": 3, "damaged files": 1, "candidates": 200}
    assert column(numbers, "number") == expected
    assert "secret place" not in markdown.render(page(run))


def test_languages_are_those_of_kept_captions(run, looked):
    (table,) = tables(run, "languages")
    counts = column(table, "captions")
    assert sum(counts.values()) == sum(len(row["captions"]) for row in looked.rows)
    assert counts["de"] == 1
    assert counts["en"] > 40


def test_words_for_people_are_counted_before_and_after_filtering(run, looked):
    table = tables(run, "people")[0]
    kept = [row for row in looked.rows if row["outcomes"]["generative"] == "kept"]
    for group, word in (("women", r"(?i)\b(woman|girl)\b"), ("men", r"(?i)\bman\b")):
        for name, rows in ((IN_SHARDS, looked.rows), ("kept by generative", kept)):
            captions = [text for row in rows for text in row["captions"]]
            count = sum(bool(re.search(word, text)) for text in captions)
            assert column(table, name)[group] == count
            assert column(table, f"{name}, share")[group] == count / len(captions)
        assert column(table, BALANCED)[group] == {"women": 2, "men": 1}[group]
    assert column(table, IN_SHARDS)["Black people"] == 1


@pytest.mark.parametrize(
    ("caption", "groups"),
    [
        ("A Woman's hat", {"women"}),
        ("womanizer, mankind, womané", set()),
        ("a black dress for a man", {"men"}),
        ("BLACK WOMEN", {"women", "Black people"}),
        ("an african-american boy", {"men", "African people", "Black people"}),
        ("(jewish) quarter_man", {"Jews"}),
        ("", set()),
    ],
)
def test_terms_are_whole_words_of_any_case(caption, groups):
    texts = pa.chunked_array([[caption]], pa.string())
    assert {group for group, mask in terms.holds(texts).items() if mask[0]} == groups


def test_overlaps_are_counted_per_evaluation_set(run, looked):
    near = tables(run, "overlaps")[0]
    rows = [row for row in looked.rows if row["overlap_set"]]
    assert column(near, "nearest to it") == {"coco|val": len(rows)}
    assert column(near, "bits ≤ 4") == {"coco|val": 5}
    assert column(near, "bits ≤ 0") == {"coco|val": 1}
    assert column(near, "cosine ≥ 0.9") == {"coco|val": len(rows)}
    assert column(near, "cosine ≥ 0.95") == {"coco|val": 0}


def test_duplicates_queries_scores_and_versions(run, looked):
    text = markdown.render(page(run))
    assert "3 groups of equal or near-equal pictures hold 8 pictures, the largest 4" in text
    assert "3 of 4 queries stand in a caption of the candidates, 3 in one of the shards" in text
    head = tables(run, "queries")[0]
    assert column(head, "in the shards") == {"circle": 17, "<b>square</b>": 5, "star": 5}
    assert set(column(tables(run, "scores")[0], "samples")) == set(Scored(looked.results).columns)
    (versions,) = tables(run, "versions")
    hashes = {name: looked.results[name].manifest_hash[:16] for name in looked.results}
    assert column(versions, "manifest (sha256)") == hashes


def test_opt_outs_and_removals_of_the_ledgers(run, looked, tmp_path):
    remembered = tables(run, "left")[0]
    assert column(remembered, "addresses") == {"opted out image": 1, "opted out site": 2}
    ledger = storage.join(looked.uri, "removals", "1.parquet")
    publish_table(ledger, pa.table({"kind": ["url", "phash", "url"], "value": ["a", "b", "c"]}))
    try:
        found = read_run(looked.uri, "", str(tmp_path))
    finally:
        storage.remove_folder(storage.join(looked.uri, "removals"))
    assert found.removals == {"url": 2, "phash": 1}


def test_what_stands_in_the_data_never_becomes_markup(run, tmp_path):
    places = write_card(run, str(tmp_path))
    page_text, marked = (storage.read_bytes(place).decode() for place in places)
    checker = checked(page_text)
    assert "script" not in checker.tags
    assert not checker.sources
    assert set(link.removeprefix("#") for link in checker.links) == set(checker.ids)
    assert "&lt;b&gt;square&lt;/b&gt;" in page_text
    assert "<b>" not in page_text
    assert "\\<b\\>square\\</b\\>" in marked
    assert "CC BY \\| 4.0" in marked
    rows = [line for line in marked.splitlines() if line.startswith("|")]
    cells = [len(re.findall(r"(?<!\\)\|", row)) for row in rows]
    assert all(count >= 3 for count in cells)


def test_every_row_of_a_markdown_table_has_as_many_cells_as_its_heading():
    table = Table(["a|b", "n"], [["x\ny | <i>", 1234], ["`z`", 0.0001]])
    lines = markdown._table(table).splitlines()
    assert lines == [
        "| a\\|b | n |",
        "| --- | ---: |",
        "| x y \\| \\<i\\> | 1,234 |",
        "| \\`z\\` | 0.01 % |",
    ]


def test_the_card_is_the_same_bytes_again(run, looked, tmp_path):
    again = read_run(looked.uri, "pairs.parquet", str(tmp_path))
    again = replace(again, opt_outs=run.opt_outs)
    assert markdown.render(page(again)) == markdown.render(page(run))
    assert html.render(page(again)) == html.render(page(run))


def test_the_order_of_shards_changes_no_drawn_caption(looked, monkeypatch):
    monkeypatch.setattr(tallies, "NUM_CAPTIONS", 10)
    found = tally(Scored(looked.results), None)
    scored = Scored(looked.results)
    monkeypatch.setattr(type(scored), "__iter__", lambda self: map(self.shard, [4, 2, 0, 1, 3]))
    again = tally(scored, None)
    assert again.languages == found.languages
    assert sum(found.languages.values()) == 10
    assert BALANCED not in found.words


def test_an_adopted_data_set_says_what_it_cannot_know(run, looked):
    curated = run.results["curate"]
    content = {**curated.content, "adopted": {"damaged": ["00007.tar"]}}
    manifest = {**curated.manifest, "content": content}
    results = {**run.results, "curate": replace(curated, manifest=manifest)}
    del results["balance"]
    adopted = replace(run, config={"adopt": {"keys": "stored"}}, results=results)
    text = markdown.render(page(adopted))
    assert "made by somebody else and adopted as they are" in text
    assert "| damaged and left out | 1 |" in text
    assert "no queries chose them" in text


def test_a_run_without_scores_and_selection_says_so(looked, run):
    results = {"curate": looked.results["curate"]}
    scored = Scored(results)
    circumstances = {"curate": {}}
    bare = replace(
        run,
        results=results,
        scored=scored,
        tally=tally(scored, None),
        distributions=[],
        circumstances=circumstances,
    )
    text = markdown.render(page(bare))
    assert "Nothing was selected yet" in text
    assert "There are no scores yet" in text
    assert "No evaluation set was compared with this data" in text


def test_a_folder_without_a_data_set_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        read_run(str(tmp_path), "", "")
    storage.write_json(str(tmp_path / "run.json"), {"name": "x", "config": {}, "stages": {}})
    with pytest.raises(ConfigError, match="holds no finished data set"):
        read_run(str(tmp_path), "", "")


def test_the_card_is_kept_with_the_data_sets_run(looked, tmp_path):
    from mlflow.tracking import MlflowClient

    demo = load_run(RunFile, "jobs/configs/demo/run.yaml", [f"output_dir={looked.uri}"])
    line = write_run_card(demo, str(tmp_path / "out"), is_tracked=True)
    assert line["mlflow_run_id"] is None  # nobody tracked this run
    assert line["num_samples"] == len(looked.rows)
    config = demo.execution.tracking
    from pipeline.tracking import Tracking
    from pipeline.tracking_store import keep_files, store_uri

    tracking = Tracking(config, str(tmp_path), "looked", print)
    tracking.start()
    stage = tracking.stage("select", "0" * 64, {}, {})
    stage.finish("FINISHED", {}, [])
    tracking.close()
    assert stage.run_id is not None
    keep_files(config, str(tmp_path), stage.run_id, line["card"])
    client = MlflowClient(store_uri(config, str(tmp_path)))
    kept = [artifact.path for artifact in client.list_artifacts(stage.run_id)]
    assert kept == ["card.html", "card.md"]
    assert client.get_run(stage.run_id).info.status == "FINISHED"
    with pytest.raises(StorageError, match="call with --no-tracking"):
        keep_files(config, str(tmp_path), "0" * 32, line["card"])
