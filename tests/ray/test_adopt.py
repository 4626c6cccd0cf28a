"""Somebody else's WebDataset becomes a data set of ours, through Ray, without being copied."""

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset

from pipeline import storage
from pipeline.config import semantic
from pipeline.curation.trace import rejects, trace
from pipeline.errors import ConfigError, DataError
from pipeline.identity import fingerprint
from pipeline.models.config import ClipConfig
from pipeline.models.presets import build_clip
from pipeline.progress import Progress
from pipeline.results import publish_result
from pipeline.runtime import RayConfig, prepare_environment, ray_session
from pipeline.selection.config import ScoreConfig
from pipeline.selection.score import score
from pipeline.selection.select import select
from pipeline.shards.adopt import adopt
from pipeline.shards.adopt_config import AdoptConfig
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.embed_config import EmbedConfig
from pipeline.shards.embedding_files import EmbeddedDataset
from pipeline.shards.embeddings import embed
from pipeline.shards.keep_list import SPLITS, keep_list
from pipeline.shards.reader import open_dataset
from pipeline.shards.select_config import SelectConfig
from pipeline.shards.verify import verify
from pipeline.weights_file import export_weights
from tests.foreign_shards import img2dataset_members, picture, write_img2dataset, write_tar
from tests.synthetic import publish

# Ray warns of its own deprecations, which nobody here can mend.
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]

VIEWS = (16, 32)
CLIP = {
    "embed_dim": 8,
    "vision": {"image_px": 16, "patch_px": 4, "width": 16, "layers": 1, "heads": 2},
    "text": {"width": 16, "layers": 1, "heads": 2},
}
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cluster():
    prepare_environment()
    with ray_session(RayConfig(num_cpus=2)):
        yield


def take(path, uri, said=None, **changes):
    values = {"type": "webdataset", "path": str(path), "views_px": VIEWS, **changes}
    config = AdoptConfig.model_validate(values)
    output = adopt(config, str(uri), Progress(said or io.StringIO()))
    return publish_result(
        str(uri),
        stage="curate",
        identity="0" * 64,
        config=semantic(config.without_place()),
        inputs={},
        content=output.content,
        circumstance={},
    )


def tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def mixed(folder):
    """Two good shards and a third with one of everything that may be wrong with a sample."""
    write_img2dataset(folder)
    cut = picture("cut")[:400]
    copies = [(f"{key}.jpg", picture("000000001"), {}) for key in ("copy1", "copy2")]
    members = [
        *img2dataset_members("000020000", "a last picture"),
        ("nopicture.txt", b"words"),
        ("nowords.jpg", picture("nowords")),
        ("broken.jpg", cut),
        ("broken.txt", b"a broken picture"),
        ("broken.json", b'{"url": "http://broken.example:80/x.jpg"}'),
        copies[0],
        ("copy1.txt", b"a first copy"),
        copies[1],
        ("copy2.json", json.dumps({"captions": ["a second copy", "twice"]}).encode()),
    ]
    write_tar(folder / "00002.tar", members)
    return folder


@pytest.fixture(scope="module")
def data(cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    there = tree(mixed(folder / "theirs"))
    result = take(folder / "theirs", folder / "ours", licence_field="LICENSE")
    return folder, there, result


def test_nothing_of_theirs_is_changed_or_copied_and_manifests_lie_beside(data):
    folder, there, _ = data
    now = tree(folder / "theirs")
    added = set(now) - set(there)
    assert {name: now[name] for name in there} == there
    assert added == {f"0000{number}.manifest.json" for number in range(3)}
    beside = json.loads(now["00002.manifest.json"])
    assert (beside["schema_version"], beside["num_samples"]) == (1, 6)
    assert beside["num_bytes"] == len(there["00002.tar"])
    assert not list((folder / "ours" / "shards").glob("*.tar"))


def test_the_manifest_accounts_for_every_sample(data):
    content = data[2].content
    dropped = {"decode_error": 1, "empty_caption": 1, "no_picture": 1}
    assert content["funnel"] == {"candidates": 19, "kept": 16, "dropped": dropped}
    assert content["num_samples"] == 15
    assert content["licences"] == {"CC0": 12, "unknown": 3}
    assert [entry["num_samples"] for entry in content["shards"]] == [6, 6, 3]
    assert content["adopted"]["damaged"] == []


def test_each_tars_statistics_say_what_it_belongs_to_and_what_fell(data):
    folder, _, result = data
    stats = json.loads((folder / "ours/shards/00002_stats.json").read_text())
    assert stats["dropped"] == {"decode_error": 1, "empty_caption": 1, "no_picture": 1}
    assert stats["config_sha256"] == fingerprint(result.manifest["config"])
    assert set(stats["upstream"]) == {"shards"}
    assert {name: stats[name] for name in result.content["shards"][2]} == result.content["shards"][
        2
    ]


def test_pictures_of_a_block_list_are_not_adopted(cluster, tmp_path, monkeypatch):
    folder = write_img2dataset(tmp_path / "theirs", num_shards=1)
    digest = hashlib.sha256(picture("000000003")).hexdigest()
    (tmp_path / "list").write_text(digest)
    monkeypatch.chdir(tmp_path)  # workers have folders of their own
    filters = {"min_side_px": 1, "min_bytes": 10, "block_lists": ["list"]}
    result = take(folder, tmp_path / "ours", filters=filters)
    assert result.content["funnel"]["dropped"] == {"blocked_bytes": 1}
    assert list((tmp_path / "ours/rejects").rglob("*.jpg")) == []
    (told,) = trace({"curate": result}, None, key="000000003")
    assert (told["drop_reason"], told["kept"]) == ("blocked_bytes", False)


def test_samples_are_theirs_in_their_order(data):
    result = data[2]
    samples = list(open_dataset(result.uri))
    assert [s.key for s in samples[:3]] == ["000000005", "000000004", "000000003"]
    first = samples[0]
    assert first.captions == ("a picture named 000000005",)
    assert first.metadata["original_width"] == 96
    expected = CuratedDataset(result).open_picture(picture("000000005"))
    assert np.array_equal(np.asarray(first.image), np.asarray(expected))
    assert samples[-1].captions == ("a second copy", "twice")


def test_views_have_the_same_keys_and_open_in_webdataset(data):
    folder, _, result = data
    keys = [sample.key for sample in open_dataset(result.uri)]
    for side in VIEWS:
        views = list(open_dataset(result.uri, side))
        assert [view.key for view in views] == keys
        assert {view.image.size for view in views} == {(side, side)}
        paths = [str(p) for p in sorted((folder / "ours/views" / str(side)).glob("*.tar"))]
        read = webdataset.WebDataset(paths, shardshuffle=False)
        assert [sample["__key__"] for sample in read] == keys


def test_copies_share_a_cluster_so_that_no_split_parts_them(data):
    rows = {s.key: s.metadata for s in open_dataset(data[2].uri)}
    group = [key for key, row in rows.items() if row["cluster"] == rows["copy1"]["cluster"]]
    assert sorted(group) == ["000000001", "copy1", "copy2"]
    assert rows["000020000"]["cluster"] == "000020000"


def test_another_place_gives_the_same_manifest(data, tmp_path):
    mixed(tmp_path / "elsewhere")
    again = take(tmp_path / "elsewhere", tmp_path / "ours", licence_field="LICENSE")
    assert again.manifest_hash == data[2].manifest_hash
    ours, before = tree(tmp_path / "ours"), tree(data[0] / "ours")
    places = {"places.json"}
    assert {n: c for n, c in ours.items() if n not in places} == {
        n: c for n, c in before.items() if n not in places
    }


def test_work_that_was_cut_short_is_continued_to_the_same_files(data, tmp_path):
    """As a death leaves it: one tar neither scanned nor finished, the others done."""
    mixed(tmp_path / "theirs")
    uri, kept = tmp_path / "ours", {"execution": {"keep_working_files": True}}
    take(tmp_path / "theirs", uri, licence_field="LICENSE", **kept)
    for name in ("manifest.json", "circumstance.json", "shards/00001.parquet"):
        (uri / name).unlink()
    for name in ("done/scan/000001.json", "done/judge/000000.json", "done/finish/000001.json"):
        (uri / "work" / name).unlink()
    (uri / "views" / "16" / "00001.tar").write_bytes(b"half")
    (uri / "views" / "32" / "00001.tmp-0badc0de.tar").write_bytes(b"half")
    untouched = (uri / "views" / "16" / "00000.tar").stat().st_mtime_ns
    again = take(tmp_path / "theirs", uri, licence_field="LICENSE")
    assert again.manifest_hash == data[2].manifest_hash
    ours, before = tree(uri), tree(data[0] / "ours")
    del ours["places.json"], before["places.json"]
    assert ours == before
    assert (uri / "views" / "16" / "00000.tar").stat().st_mtime_ns == untouched


def test_what_was_dropped_or_kept_is_told_by_key_and_address(data):
    results = {"curate": data[2]}
    (kept,) = trace(results, None, url="https://host1.example/000010003.jpg")
    assert (kept["key"], kept["shard"], kept["kept"]) == ("000010003", "00001.tar", True)
    assert list(trace(results, None, key="000010003")) == [kept]
    (dropped,) = trace(results, None, key="broken")
    assert (dropped["drop_reason"], dropped["shard"]) == ("decode_error", "00002.tar")
    row = dict(dropped)
    for asked in ({"url": "http://broken.example/x.jpg"}, {"uid": row["uids"][0]}):
        assert list(trace(results, None, **asked)) == [dropped]
    for asked in ({"key": "unknown"}, {"url": "no address"}, {"uid": "0" * 32}):
        with pytest.raises(ConfigError, match="neither a candidate nor a sample"):
            list(trace(results, None, **asked))
    shown = {row["drop_reason"]: row["key"] for row in rejects(data[2], None, 0, 3)}
    assert shown == {
        "decode_error": "broken",
        "empty_caption": "nowords",
        "no_picture": "nopicture",
    }


def test_folders_that_nobody_may_write_to_are_left_as_they_are(cluster, tmp_path):
    folder, said = write_img2dataset(tmp_path / "theirs", num_shards=1), io.StringIO()
    there = tree(folder)
    os.chmod(folder, 0o555)
    try:
        take(folder, tmp_path / "ours", said)
        assert tree(folder) == there
    finally:
        os.chmod(folder, 0o755)
    assert "nobody may write beside the tars" in said.getvalue()


def test_damaged_tars_are_named_and_left_out_only_where_that_is_allowed(cluster, tmp_path):
    folder = write_img2dataset(tmp_path / "theirs", num_shards=3)
    whole = (folder / "00001.tar").read_bytes()
    (folder / "00001.tar").write_bytes(whole[:3072])
    with pytest.raises(DataError, match=r"1 of 3 tars are damaged.*00001\.tar: "):
        take(folder, tmp_path / "ours")
    result = take(folder, tmp_path / "some", max_damaged_share=0.3)
    assert [entry["name"] for entry in result.content["shards"]] == ["00000.tar", "00002.tar"]
    assert result.content["adopted"]["damaged"] == ["00001.tar"]
    with pytest.raises(ConfigError, match="neither a candidate nor a sample"):
        list(trace({"curate": result}, None, key="of-the-damaged-one"))
    (folder / "00001.tar").write_bytes(whole)  # mended: the same folder goes on
    assert take(folder, tmp_path / "ours").content["num_samples"] == 18


def test_a_tar_changed_after_it_was_adopted_is_refused_wherever_it_is_read(cluster, tmp_path):
    folder = write_img2dataset(tmp_path / "theirs")
    result = take(folder, tmp_path / "ours")
    content = bytearray((folder / "00001.tar").read_bytes())
    content[3000] ^= 1
    (folder / "00001.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"00001\.tar: sha256"):
        CuratedDataset(result).pictures(1)
    problems = verify({"curate": result}, decode=False).problems
    assert [(p["stage"], p["file"]) for p in problems] == [("curate", "00001.tar")]
    with pytest.raises(DataError, match=r"sha256 differ from .*00001\.manifest\.json"):
        take(folder, tmp_path / "again")


def test_tars_that_number_their_samples_from_zero_need_the_tars_name(cluster, tmp_path):
    for shard in range(2):
        members = img2dataset_members("000000000", f"of shard {shard}")
        write_tar(tmp_path / "theirs" / f"0000{shard}.tar", members)
    with pytest.raises(DataError, match=r"000000000 stands in 00000\.tar and in 00001\.tar"):
        take(tmp_path / "theirs", tmp_path / "ours")
    result = take(tmp_path / "theirs", tmp_path / "ours2", keys="with_shard")
    samples = list(open_dataset(result.uri))
    assert [s.key for s in samples] == ["00000-000000000", "00001-000000000"]
    assert samples[1].captions == ("of shard 1",)
    assert verify({"curate": result}, decode=True).problems == []


def test_nothing_usable_is_refused_with_what_was_wrong(cluster, tmp_path):
    write_tar(tmp_path / "theirs" / "00000.tar", [("a.jpg", picture("a"))])
    with pytest.raises(DataError, match=r"none of 1 samples can be used: \{'empty_caption': 1\}"):
        take(tmp_path / "theirs", tmp_path / "ours")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    torch.manual_seed(0)
    uri = str(tmp_path_factory.mktemp("clip"))
    weights = storage.join(uri, "weights.safetensors")
    state = build_clip(ClipConfig.model_validate(CLIP)).state_dict()
    export_weights(weights, state, {"task": {"type": "clip", "model": CLIP}}, "clip")
    entry = {"name": "weights.safetensors", "sha256": storage.sha256_of(weights)}
    return publish(uri, "clip", {"weights": entry})


def embedded(data, clip, uri, **changes):
    execution = {"num_actors": 1, "threads_per_actor": 1, **changes.pop("execution", {})}
    config = EmbedConfig.model_validate({"batch_size": 4, "execution": execution, **changes})
    output = embed(config, data, clip, str(uri), Progress(io.StringIO()))
    return publish(str(uri), "embed", output.content)


@pytest.mark.parametrize("pictures", ["view", "shard"])
def test_adopted_shards_are_embedded_selected_and_verified(data, clip, tmp_path, pictures):
    curated = data[2]
    found = embedded(curated, clip, tmp_path / "embed", pictures=pictures)
    dataset = CuratedDataset(curated)
    table = EmbeddedDataset(found, dataset).table(2)
    assert table["key"].to_pylist() == dataset.rows(2)["key"].to_pylist()
    assert len(table["z_txt"][2]) == 2
    split = {"seed": 1, "validation_share": 0.2, "test_share": 0.2}
    config = SelectConfig.model_validate({"split": split, "profiles": {"generative": {}}})
    uri = str(tmp_path / "select")
    inputs, progress = {"curate": curated, "embed": found}, Progress(io.StringIO())
    scores = str(tmp_path / "score")
    output = score(ScoreConfig(), inputs, scores, progress)
    inputs["score"] = publish(scores, "score", output.content)
    output = select(config, inputs, uri, progress)
    selected = publish(uri, "select", output.content)
    keep = keep_list(selected, "generative")
    kept = [keep.keys(shard, split) for shard in range(3) for split in SPLITS]
    assert sum(map(len, kept)) == 15
    results = {**inputs, "clip": clip, "select": selected}
    assert verify(results, decode=True).counts["num_problems"] == 0


def test_too_many_actors_or_gpus_are_refused_before_the_graph_starts(data, clip, tmp_path):
    with pytest.raises(ConfigError, match="2 CPUs = 2, the Ray cluster has 2"):
        embedded(data[2], clip, tmp_path, execution={"decoders_per_actor": 1})
    with pytest.raises(ConfigError, match="wants 1 GPUs, the Ray cluster has 0"):
        embedded(data[2], clip, tmp_path, execution={"gpus_per_actor": 1})


def test_a_damaged_shard_stops_the_embedding_by_name(clip, cluster, tmp_path):
    folder = write_img2dataset(tmp_path / "theirs", num_shards=1)
    result = take(folder, tmp_path / "ours")
    view = tmp_path / "ours/views/16/00000.tar"
    view.write_bytes(view.read_bytes()[:-512])
    with pytest.raises(DataError, match=r"views/16/00000\.tar: \d+ bytes, its manifest says"):
        embedded(result, clip, tmp_path / "embed")


def job(name, run_file, *options):
    command = [sys.executable, "-m", f"jobs.{name}", "--config", str(run_file), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_commands_of_the_readme_adopt_and_verify(tmp_path):
    write_img2dataset(tmp_path / "theirs", num_shards=1)
    run_file = ROOT / "jobs/configs/real/webdataset.yaml"
    settings = [f"adopt.path={tmp_path}/theirs", f"output_dir={tmp_path}/run"]
    options = [part for each in settings for part in ("--set", each)]
    adopted = job("curate", run_file, *options)
    assert adopted.returncode == 0, adopted.stderr[-3000:]
    assert json.loads(adopted.stdout.splitlines()[-1])["num_samples"] == 6
    assert (tmp_path / "run" / "report.html").exists()
    again = job("curate", run_file, *options)
    assert json.loads(again.stdout.splitlines()[-1])["stages_run"] == []
    checked = job("verify", run_file, *options, "--decode")
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout)["num_problems"] == 0
    tar = tmp_path / "theirs" / "00000.tar"
    tar.write_bytes(tar.read_bytes().replace(b"named 000000003", b"named 000000004"))
    checked = job("verify", run_file, *options)
    assert checked.returncode == 3
    problem, counts = map(json.loads, checked.stdout.splitlines())
    assert (problem["stage"], problem["file"]) == ("curate", "00000.tar")
    assert "sha256" in problem["problem"]
    assert counts["num_problems"] == 1
