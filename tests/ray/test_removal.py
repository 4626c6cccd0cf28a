"""Removal and compaction on a real Ray and a real MLflow, killed half-way and gone on with."""

import tempfile
from pathlib import Path

import pytest
import webdataset

from pipeline import results, storage
from pipeline.chain import compaction, removal
from pipeline.chain.plan import recorded
from pipeline.runtime import RayConfig, prepare_environment, ray_session
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.keep_list import SPLITS, keep_list
from pipeline.shards.removal_requests import parse
from pipeline.shards.verify import verify
from tests.kept_run import make_run, on_open_ray, rows_of, said, selected, tree

# Ray warns of its own deprecations, which nobody here can mend.
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def cluster():
    prepare_environment()
    with ray_session(RayConfig(num_cpus=2)):
        yield


class Killed(Exception):
    pass


def kill_at(patch, point, passage):
    passed = []

    def failpoint(name):
        passed.append(name)
        if name == point and passed.count(name) == passage:
            raise Killed

    patch.setattr(results, "failpoint", failpoint)
    patch.setattr(storage, "failpoint", failpoint)


def test_a_hundred_samples_are_removed_listed_and_compacted_away(cluster, monkeypatch):
    on_open_ray(monkeypatch)
    with tempfile.TemporaryDirectory(prefix="ut") as folder:
        place = Path(folder)
        run = make_run(place, 300)
        old = selected(run)
        gone = sorted(rows_of(run))[::3]
        listed = place / "keys.txt"
        listed.write_text("\n".join(gone))
        asked = parse([f"key=@{listed}"], 4)

        found = list(removal.preview(run, asked))
        assert found[-1] == {
            "artefact": "total", "samples": 100, "data_sets": 1, "shards": 30, "views": 30,
            "embeddings": 30, "scores": 30, "keep_lists": 2, "models": 0,
        }  # fmt: skip
        with monkeypatch.context() as patch:
            kill_at(patch, "results.before_manifest", 1)
            with pytest.raises(Killed):
                removal.remove(run, asked, said())
        told = removal.remove(run, asked, said())
        assert (told["added"], told["samples"]) == (0, 100)  # noted by the call that was killed
        now = rows_of(run)
        assert not any(now[key]["kept"] for key in gone)
        assert sum(row["kept"] for row in now.values()) == 200
        for version in (old, selected(run)):
            assert verify({**recorded(run), "select": version}, decode=False).problems == []

        with monkeypatch.context() as patch:
            kill_at(patch, "results.before_manifest", 2)
            with pytest.raises(Killed):
                compaction.compact_run(run, "all", str(place / "small"), 64, said())
        compaction.compact_run(run, "all", str(place / "small"), 64, said())
        compaction.compact_run(run, "all", str(place / "again"), 64, said())
        check_compacted(run, place, gone)


def check_compacted(run, place, gone):
    ours, again = tree(place / "small"), tree(place / "again")
    assert ours.keys() == again.keys()
    for name, content in ours.items():
        assert content == again[name] or name.endswith("circumstance.json"), name
        assert not any(key.encode() in content for key in gone), name
    made = recorded(run.model_copy(update={"output_dir": str(place / "small")}))
    assert verify(made, decode=True).problems == []
    small = CuratedDataset(made["curate"])
    tars = sorted(str(path) for path in Path(made["curate"].uri, "shards").glob("*.tar"))
    samples = webdataset.WebDataset(tars, shardshuffle=False).decode("pil")
    read = [(sample["__key__"], sample["txt"], sample["jpg"].size) for sample in samples]
    assert len(read) == 200
    assert not {key for key, _, _ in read} & set(gone)
    import ray.data

    rows = ray.data.read_webdataset(tars).take_all()
    assert sorted(row["__key__"] for row in rows) == sorted(key for key, _, _ in read)
    keep = keep_list(made["select"], "all")
    shards = range(len(small.shards))
    kept = {key for shard in shards for split in SPLITS for key in keep.keys(shard, split)}
    assert kept == {key for key, _, _ in read}
