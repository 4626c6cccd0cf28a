"""A real MLflow server, started by the script that we give to people."""

import json
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from pipeline.tracking import Tracking, waits
from pipeline.tracking_store import TrackingConfig
from tests.mlflow_server import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory):
    found = Server(tmp_path_factory.mktemp("mlflow"))
    yield found
    found.stop()


@pytest.fixture
def server(mlflow_server):
    if mlflow_server.process is None:
        mlflow_server.start()
    return mlflow_server.address


def picture_at(path):
    Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).save(path)
    return path


class Training:
    """Hands metrics over and remembers what and how long each took."""

    def __init__(self, run) -> None:
        self.run, self.published, self.waited_s = run, [], []

    def go_on(self) -> None:
        for _ in range(3):
            step = 32.0 * (len(self.published) + 1)
            started = time.monotonic()
            self.run.publish([{"samples_seen": step, "loss": 1 / step}])
            self.waited_s.append(time.monotonic() - started)
            self.published.append((step, 1 / step))


def all_is_sent(folder) -> bool:
    for _ in range(120):
        if not waits(str(folder)):
            return True
        time.sleep(0.25)
    return False


def runs_of(address, experiment):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(address)
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id])
    assert len(runs) == len({run.info.run_name for run in runs})
    return client, {run.info.run_name: run for run in runs}


def test_training_never_waits_for_a_server_and_its_history_is_whole_in_the_end(
    mlflow_server, tmp_path
):
    """The server is away at the start, in the middle and at the end."""
    said: list[str] = []
    config = TrackingConfig(uri=mlflow_server.address, experiment="outages")
    tracking = Tracking(config, str(tmp_path), "outages", said.append)
    tracking.start()
    tracking.stage("clip", "c" * 64, {}, {}).finish("FINISHED", {}, [])
    run = tracking.stage("prior", "0123456789abcdef", {}, {"clip": "c" * 64})
    training = Training(run)
    training.go_on()
    assert run.run_id is None  # nobody could give it one
    for _ in range(2):
        mlflow_server.start()
        assert all_is_sent(tmp_path)
        training.go_on()
        assert all_is_sent(tmp_path)
        mlflow_server.stop()
        training.go_on()
    run.log_picture(str(picture_at(tmp_path / "288.png")), 288)
    run.finish("FINISHED", {"final_loss": 0.25}, [])
    started = time.monotonic()
    tracking.finish("FINISHED", {"colour_accuracy": 0.8}, [])
    assert time.monotonic() - started < 10
    assert max(training.waited_s) < 1
    assert "the next call sends them" in said[-1]
    mlflow_server.start()
    Tracking(config, str(tmp_path), "outages", said.append).close()

    client, runs = runs_of(mlflow_server.address, "outages")
    assert sorted(runs) == ["clip", "outages", "prior"]
    assert {each.info.status for each in runs.values()} == {"FINISHED"}
    prior = runs["prior"]
    history = [(m.step, m.value) for m in client.get_metric_history(prior.info.run_id, "loss")]
    assert history == training.published
    assert prior.data.tags["upstream.clip"] == runs["clip"].info.run_id
    assert prior.data.tags["mlflow.parentRunId"] == runs["outages"].info.run_id
    assert prior.data.metrics["final_loss"] == 0.25
    assert "images" in {artifact.path for artifact in client.list_artifacts(prior.info.run_id)}


def test_a_chain_is_tracked_by_a_server(server, tmp_path):
    from mlflow.tracking import MlflowClient

    config = TrackingConfig(uri=server, experiment="services")
    said: list[str] = []
    tracking = Tracking(config, str(tmp_path), "demo", said.append)
    tracking.start()
    run = tracking.stage("prior", "0123456789abcdef", {"upstream": "abc"}, {})
    run.log_config({"samples": 64})
    records = [{"samples_seen": 32.0, "loss": 0.5}, {"samples_seen": 64.0, "loss": 0.25}]
    run.publish(records)
    # The look at the end comes in a record of its own with the last step.
    run.publish([*records, {"samples_seen": 64.0, "validation_loss": 0.375}])
    picture = picture_at(tmp_path / "64.png")
    run.log_picture(str(picture), 64)
    run.finish("FINISHED", {"final_loss": 0.25}, [str(picture), str(tmp_path / "missing.png")])
    tracking.finish("FINISHED", {"colour_accuracy": 0.8}, [])
    assert len(said) == 1
    assert "refused for good" in said[0]
    assert "missing.png" in said[0]

    # Another process of the same chain finds the same runs and publishes nothing twice.
    second = Tracking(config, str(tmp_path), "demo", said.append)
    again = second.stage("prior", "0123456789abcdef", {}, {})
    assert again.run_id == run.run_id
    again.publish(records)
    again.finish("FINISHED", {}, [])
    second.close()

    client = MlflowClient(server)
    found = client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.tags["upstream"] == "abc"
    history = [(m.step, m.value) for m in client.get_metric_history(run.run_id, "loss")]
    assert history == [(32, 0.5), (64, 0.25)]
    looked = [(m.step, m.value) for m in client.get_metric_history(run.run_id, "validation_loss")]
    assert looked == [(64, 0.375)]
    parent = client.get_run(found.data.tags["mlflow.parentRunId"])
    assert parent.info.run_name == "demo"
    assert parent.data.metrics["colour_accuracy"] == 0.8
    names = {artifact.path for artifact in client.list_artifacts(run.run_id)}
    assert {"config.json", "64.png", "images"} <= names
    local = client.download_artifacts(run.run_id, "64.png", str(tmp_path))
    assert Image.open(local).getpixel((0, 0)) == (200, 200, 200)


def test_a_run_that_was_created_twice_is_one(server, tmp_path):
    """The process died after the store had created the run and before it was written down."""
    config, state = TrackingConfig(uri=server, experiment="twice"), tmp_path / "tracking.json"
    for _ in range(2):
        tracking = Tracking(config, str(tmp_path), "demo", print)
        tracking.start()
        tracking.close()
        state.write_text(json.dumps({**json.loads(state.read_text()), "parent": None}))
    assert list(runs_of(server, "twice")[1]) == ["demo"]


def test_a_foreign_host_name_is_refused(server):
    address = f"{server}/api/2.0/mlflow/experiments/search?max_results=1"
    request = urllib.request.Request(address, headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request, timeout=5)
