"""Secrets of the environment, through a curation, a training and their tracking."""

import pytest

from pipeline.tracking import Tracking, waits
from pipeline.tracking_store import TrackingConfig
from pipeline.training import spool
from pipeline.training.loop import train_loop
from tests.local_curation import curate_pictures
from tests.picture_corpus import photograph, saved
from tests.synthetic import loop_settings, make_dataset

CANARY = "0c2f5d7e91ab" * 5 + "c0de"
NAMES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "RATING_TOKEN",
)


@pytest.fixture
def secrets(tmp_path, monkeypatch):
    """One in every variable that a person may put one into, in an address, and in a file."""
    for name in NAMES:
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("HTTPS_PROXY", f"http://someone:{CANARY}@127.0.0.1:9")
    (tmp_path / "token").write_text(CANARY)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))


@pytest.mark.usefixtures("secrets")
def test_secrets_of_the_environment_are_found_nowhere(tmp_path, monkeypatch, capfd):
    """Neither in what was printed nor in a file: shards, manifests, logs, database, artifacts."""
    run = tmp_path / "run"
    pictures = {f"{n}.jpg": saved(photograph(n, 64, 48), "JPEG") for n in range(4)}
    _, curated = curate_pictures(run, pictures, monkeypatch)
    settings = loop_settings(make_dataset(tmp_path / "data"), run / "prior")
    train_loop(settings)
    said: list[str] = []
    tracking = Tracking(TrackingConfig(), str(run), "demo", said.append)
    tracking.start()
    stage = tracking.stage("prior", "0123456789abcdef", {"commit": "unknown"}, {})
    stage.log_config(settings.config.model_dump(mode="json"))
    stage.publish(spool.read(settings.uri))
    weights = run / "prior" / "weights.safetensors"
    stage.finish("FINISHED", {"kept": float(curated.content["funnel"]["kept"])}, [str(weights)])
    tracking.finish("FINISHED", {}, [])
    for _ in range(20):  # what a busy machine did not send in time, the next call sends
        if waits(str(run)):
            Tracking(TrackingConfig(), str(run), "demo", said.append).close()

    files = [path for path in run.rglob("*") if path.is_file()]
    assert {"mlflow.db", "manifest.json", "weights.safetensors"} <= {path.name for path in files}
    assert any("mlflow-artifacts" in path.parts for path in files)
    assert holding(files) == []
    printed = capfd.readouterr()
    assert CANARY not in printed.out + printed.err + "".join(said)
    (run / "planted").write_text(f"a line with {CANARY} in it")
    assert holding([*files, run / "planted"]) == [run / "planted"]


def holding(files):
    """Files with the canary in them."""
    return [path for path in files if CANARY.encode() in path.read_bytes()]
