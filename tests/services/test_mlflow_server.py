"""A real MLflow server, started by the script that we give to people."""

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.tracking import Tracking, TrackingConfig

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    environment = {**os.environ, "PORT": str(port), "FOLDER": str(folder)}
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(
            [str(ROOT / "infra/mlflow/serve.sh")], env=environment, stdout=log, stderr=log
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=1)
                break
            except OSError:
                assert process.poll() is None, (folder / "server.log").read_text()
                time.sleep(0.25)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_a_chain_is_tracked_by_a_server(server, tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    config = TrackingConfig(uri=server, experiment="services")
    tracking = Tracking(config, str(tmp_path), "demo")
    run = tracking.stage("prior", "0123456789abcdef", {"upstream": "abc"})
    run.log_config({"samples": 64})
    records = [{"samples_seen": 32.0, "loss": 0.5}, {"samples_seen": 64.0, "loss": 0.25}]
    assert run.publish(records)
    # The look at the end comes in a record of its own with the last step.
    assert run.publish([*records, {"samples_seen": 64.0, "validation_loss": 0.375}])
    picture = tmp_path / "64.png"
    Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).save(picture)
    run.log_picture(picture, 64)
    run.finish("FINISHED", {"final_loss": 0.25}, [picture])
    tracking.finish("FINISHED", {"colour_accuracy": 0.8}, [])

    # Another process of the same chain finds the same runs and publishes nothing twice.
    again = Tracking(config, str(tmp_path), "demo").stage("prior", "0123456789abcdef", {})
    assert again.run_id == run.run_id
    assert again.publish(records)
    again.finish("FINISHED", {}, [])

    client = MlflowClient(server)
    found = client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.tags["upstream"] == "abc"
    history = [(m.step, m.value) for m in client.get_metric_history(run.run_id, "loss")]
    assert history == [(32, 0.5), (64, 0.25)]
    looked = [(m.step, m.value) for m in client.get_metric_history(run.run_id, "validation_loss")]
    assert looked == [(64, 0.375)]
    parent = client.get_run(tracking.parent_run_uri.removeprefix("runs:/"))
    assert parent.info.run_name == "demo"
    names = {artifact.path for artifact in client.list_artifacts(run.run_id)}
    assert {"config.json", "64.png", "images"} <= names
    local = client.download_artifacts(run.run_id, "64.png", str(tmp_path))
    assert Image.open(local).getpixel((0, 0)) == (200, 200, 200)


def test_a_foreign_host_name_is_refused(server):
    address = f"{server}/api/2.0/mlflow/experiments/search?max_results=1"
    request = urllib.request.Request(address, headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request, timeout=5)
