"""Scoring through Ray: killed workers and an interrupted driver leave no trace."""

import io

import pytest

from pipeline import storage
from pipeline.progress import Progress
from pipeline.runtime import RayConfig, prepare_environment, ray_session
from pipeline.selection import score as stage
from pipeline.selection.config import ScoreConfig
from tests import scoring
from tests.scoring_faults import dying_shard
from tests.synthetic import sample_key

# Ray warns of its own deprecations, which nobody here can mend.
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def cluster():
    prepare_environment()
    with ray_session(RayConfig(num_cpus=2)):
        yield


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    pictures = {sample_key(n): scoring.jpeg(scoring.make_picture(n // 2)) for n in range(60)}
    (folder / "set").mkdir()
    for number in range(4):
        content = scoring.jpeg(scoring.make_picture(number), 50)
        (folder / "set" / f"{number}.jpg").write_bytes(content)
    return scoring.make_data(folder, pictures, per_shard=10), str(folder / "set")


def config_of(place):
    semantic = {"floor": 0.99, "num_clusters": 3, "seed": 1, "n_probe": 2}
    sets = {"held_out": {"path": place}}
    return ScoreConfig.model_validate({"semantic": semantic, "evaluation_sets": sets})


class Interrupted(Progress):
    """Ctrl-C when the first bucket's pairs are there."""

    def stage(self, name, total, unit):
        if name == "pairs":
            raise KeyboardInterrupt
        return super().stage(name, total=total, unit=unit)


def test_a_killed_worker_and_an_interrupted_driver_leave_no_trace(
    cluster, inputs, tmp_path, monkeypatch
):
    results, place = inputs
    config, quiet = config_of(place), Progress(io.StringIO())
    undisturbed = stage.score(config, results, str(tmp_path / "one"), quiet)
    assert undisturbed.content["semantic"]["num_pairs"] >= 30
    assert undisturbed.content["evaluation_sets"]["held_out"]["num_pictures"] == 4

    uri = str(tmp_path / "two")
    with monkeypatch.context() as patch:
        patch.setattr(stage, "score_shard", dying_shard)
        with pytest.raises(KeyboardInterrupt):
            stage.score(config, results, uri, Interrupted(io.StringIO()))
    assert (tmp_path / "two.died").exists()
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "two" / "scores").iterdir()}
    assert len(done) == 6
    resumed = stage.score(config, results, uri, quiet)
    assert resumed.content == undisturbed.content
    assert done == {path: path.stat().st_mtime_ns for path in done}
    for entry in [*resumed.content["scores"], resumed.content["semantic"]]:
        assert storage.sha256_of(storage.join(uri, entry["name"])) == entry["sha256"]
    assert not (tmp_path / "two" / "work").exists()
