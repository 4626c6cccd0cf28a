"""Whatever is wrong with a data set is found and named."""

import json
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.keep_list import keep_everything
from pipeline.shards.select_config import SplitConfig
from pipeline.shards.verify import verify
from tests.synthetic import VIEW_PX, make_curated, make_embedded, publish


@pytest.fixture
def results(tmp_path):
    curated = make_curated(tmp_path)
    embedded = make_embedded(tmp_path, curated)
    split = SplitConfig(seed=3, validation_share=0.2, test_share=0.1)
    keep = keep_everything(CuratedDataset(curated), split, str(tmp_path / "keep" / "all.parquet"))
    profiles = {"all": {**keep.entry, "name": "all.parquet"}}
    selected = publish(str(tmp_path / "keep"), "select", {"profiles": profiles})
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "w").write_bytes(b"weights")
    entry = {"name": "w", "sha256": storage.sha256_of(str(tmp_path / "clip" / "w"))}
    clip = publish(str(tmp_path / "clip"), "clip", {"weights": entry})
    return {"curate": curated, "embed": embedded, "select": selected, "clip": clip}


def test_a_sound_data_set_has_no_problems(results):
    checked = verify(results, decode=True)
    assert checked.problems == []
    assert checked.counts == {"num_shards": 6, "num_samples": 60, "num_problems": 0}


def flip(path: Path, place: int = 1000) -> None:
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("stage", "file", "told"),
    [
        ("curate", "shards/00002.tar", "00002.tar"),
        ("curate", f"views/{VIEW_PX}/00001.tar", f"views/{VIEW_PX}/00001.tar"),
        ("curate", "shards/00000.parquet", "00000.parquet"),
        ("embed", "00003.parquet", "00003.parquet"),
        ("select", "all.parquet", "all.parquet"),
        ("clip", "w", "w"),
    ],
)
def test_one_flipped_byte_is_one_problem_with_its_place(results, stage, file, told):
    flip(Path(results[stage].uri, file))
    (problem,) = verify(results, decode=False).problems
    assert (problem["stage"], problem["file"]) == (stage, told)
    assert "sha256" in problem["problem"] or "is not the file" in problem["problem"]


def test_every_problem_is_told_not_only_the_first(results):
    folder = Path(results["curate"].uri)
    flip(folder / "shards/00000.tar")
    tar = folder / "shards/00004.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    (folder / "shards/00001.tar").unlink()
    (folder / "shards/00003_stats.json").unlink()
    problems = verify(results, decode=False).problems
    told = {p["file"]: p["problem"] for p in problems}
    assert set(told) == {"00000.tar", "00001.tar", "00003_stats.json", "00004.tar"}
    assert "is missing" in told["00001.tar"]
    assert "cut or changed" in told["00004.tar"]


def change_manifest(result, **changes):
    return publish(result.uri, result.stage, {**result.content, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_samples": 61}, "num_samples=61, its shards hold 60"),
        ({"funnel": {"candidates": 61, "kept": 60, "dropped": {}}}, "does not add up"),
        ({"licences": {"CC0": 59}}, "count 59 of 60"),
    ],
)
def test_totals_that_contradict_the_shards_are_told(results, changes, words):
    curated = change_manifest(results["curate"], **changes)
    (problem,) = verify({"curate": curated}, decode=False).problems
    assert words in problem["problem"]


def test_statistics_that_contradict_the_manifest_are_told(results):
    path = Path(results["curate"].uri, "shards/00005_stats.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sha256": "x"}))
    (problem,) = verify({"curate": results["curate"]}, decode=False).problems
    assert problem["file"] == "00005_stats.json"
    assert "sha256 differ" in problem["problem"]


def test_embeddings_of_other_shards_are_told(results, tmp_path):
    other = make_curated(tmp_path / "other", num_samples=50)
    problems = verify({"curate": other, "embed": results["embed"]}, decode=False).problems
    assert [p["stage"] for p in problems] == ["embed"]
    assert "embeds other shards" in problems[0]["problem"]
