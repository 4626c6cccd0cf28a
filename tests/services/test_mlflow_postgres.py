"""The tracking server as many share it: PostgreSQL behind it, a password before it."""

import os
import subprocess
import urllib.error
import urllib.request

import pytest

from pipeline.tracking import Tracking, waits
from pipeline.tracking_store import TrackingConfig
from tests.mlflow_server import ROOT, Server
from tests.postgres import BINARIES, database

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not BINARIES, reason="PostgreSQL: apt-get install postgresql"),
]
USER, PASSWORD = "trainer", "twelve-letters-and-more"
ROUTES = (
    "/api/2.0/mlflow/experiments/search?max_results=1",
    "/api/2.0/mlflow/runs/search",
    "/ajax-api/2.0/mlflow/experiments/search?max_results=1",
    "/ajax-api/3.0/jobs/",
    "/api/2.0/mlflow-artifacts/artifacts",
    "/graphql",
    "/v1/traces",
    "/metrics",
    "/",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with database() as store:
        found = Server(
            tmp_path_factory.mktemp("mlflow"),
            STORE=store,
            MLFLOW_AUTH_ADMIN_USERNAME=USER,
            MLFLOW_AUTH_ADMIN_PASSWORD=PASSWORD,
        )
        try:
            found.start()
            yield found
        finally:
            found.stop()


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nobody_gets_in_without_the_password(server, route, method):
    request = urllib.request.Request(server.address + route, method=method)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=20)
    refused.value.close()
    assert refused.value.code == 401


def test_a_run_is_tracked_with_user_and_password_by_environment(
    server, tmp_path, monkeypatch, capfd
):
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    said: list[str] = []
    config = TrackingConfig(uri=server.address)
    tracking = Tracking(config, str(tmp_path), "demo", said.append)
    tracking.start()
    run = tracking.stage("prior", "0123456789abcdef", {}, {})
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"1234")
    run.publish([{"samples_seen": 32.0, "loss": 0.5}])
    run.finish("FINISHED", {"final_loss": 0.25}, [str(weights)])
    tracking.finish("FINISHED", {}, [])
    for _ in range(20):  # what a busy server did not take in time, the next call sends
        if waits(str(tmp_path)):
            Tracking(config, str(tmp_path), "demo", said.append).close()
    assert not waits(str(tmp_path)), said
    assert capfd.readouterr().out == ""  # where programs read what a job says
    client = MlflowClient(server.address)
    assert [m.value for m in client.get_metric_history(run.run_id, "loss")] == [0.5]
    assert "weights.bin" in {each.path for each in client.list_artifacts(run.run_id)}
    # The password is neither in the run's own folder nor in what the server has written.
    for path in [*tmp_path.rglob("*"), *server.folder.rglob("*")]:
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes(), path


def test_beyond_loopback_a_password_is_needed(tmp_path):
    environment = {**os.environ, "HOST": "0.0.0.0", "FOLDER": str(tmp_path)}
    environment.pop("MLFLOW_AUTH_ADMIN_PASSWORD", None)
    done = subprocess.run(
        [ROOT / "infra/mlflow/serve.sh"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2
    assert "MLFLOW_AUTH_ADMIN_PASSWORD" in done.stderr
