"""The whole chain, small, submitted to a cluster with a token, a bucket and a shared MLflow."""

import os
import subprocess
import urllib.error
import urllib.request
from contextlib import closing

import pytest
import yaml

from tests.cluster.__main__ import NUM_NODES, undisturbed
from tests.cluster.comparison import compared
from tests.cluster.network import Network, is_allowed
from tests.cluster.nodes import Cluster
from tests.cluster.services import services
from tests.cluster.submission import PLACED, Submission, node_cpus
from tests.postgres import BINARIES
from tests.rados_gateway import SECRET, is_installed
from tests.tiny_run import tiny_run

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        not is_installed() or not BINARIES,
        reason="apt-get install radosgw ceph-mon ceph-osd postgresql",
    ),
]
DEADLINE_S = 1800.0
ROUTES = (
    *("GET /api/jobs/", "POST /api/jobs/", "GET /api/jobs/{id}", "DELETE /api/jobs/{id}"),
    *("POST /api/jobs/{id}/stop", "GET /api/jobs/{id}/logs", "PUT /api/packages/gcs/x.zip"),
    *("GET /api/v0/tasks", "GET /nodes?view=summary"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def run_file(folder):
    """A CLIP that trains long enough to lose a node on the way."""
    path = tiny_run(folder)
    run = yaml.safe_load(path.read_text())
    run["clip"]["samples"] = 3200
    path.write_text(yaml.safe_dump(run))
    return path


@pytest.fixture(scope="module")
def alone(folder, run_file):
    """Output folder of one process."""
    return undisturbed(run_file, folder, [])[0]


@pytest.fixture(scope="module")
def network():
    """Addresses of their own for the nodes, where this user may give them."""
    if not is_allowed():
        yield None
        return
    with closing(Network()) as built:
        yield built


@pytest.fixture(scope="module")
def found(alone, network, tmp_path_factory):
    with services(tmp_path_factory.mktemp("services"), network) as running:
        yield running


@pytest.fixture(scope="module")
def cluster(found, network, run_file):
    started = Cluster(found.machine, network=network)
    try:
        started.start(NUM_NODES, node_cpus(run_file))
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="module")
def submission(cluster, found, run_file):
    done = Submission(cluster, found, found.store("chain"), run_file)
    assert done.run(DEADLINE_S) == 0, done.log.read_text()[-5000:]
    return done


def test_a_submitted_chain_is_that_of_one_process(submission, alone):
    counts, differences = compared(alone, submission)
    assert not any(differences.values()), differences
    assert counts["stages"] == 13
    assert counts["curves"] > 10


def test_nodes_that_die_change_nothing_and_work_stays_where_it_shall_be(submission, alone):
    again = Submission(
        submission.cluster,
        submission.services,
        submission.services.store("killed"),
        submission.run_file,
        PLACED,
    )
    assert again.run(DEADLINE_S, kill=["curate", "clip"]) == 0, again.log.read_text()[-5000:]
    assert [strike.stage for strike in again.strikes] == ["curate", "clip"]
    assert any("RayTrainWorker" in work for work in again.strikes[1].lost)
    attempts = again.store.names("clip/")
    assert sum("/metrics/" in name for name in attempts) > 1, "nothing had to begin again"
    assert again.strikes[0].node == "n1"  # the one that does tasks
    assert again.misplaced == []
    _, differences = compared(alone, again)
    assert not any(differences.values()), differences


def test_a_head_that_dies_ends_its_job_and_another_cluster_goes_on(
    submission, found, network, run_file, alone
):
    store, first = found.store("headless"), Cluster(found.machine, network=network)
    try:
        first.start(NUM_NODES, node_cpus(run_file))
        ended = Submission(first, found, store, run_file)
        assert ended.run(DEADLINE_S, kill=["head:clip"]) != 0
    finally:
        first.stop()
    assert [strike.stage for strike in ended.strikes] == ["clip"]
    assert not any(name.startswith("prior/") for name in store.names())
    again = Submission(submission.cluster, found, store, run_file, strikes=ended.strikes)
    assert again.run(DEADLINE_S) == 0, again.log.read_text()[-5000:]
    assert "curate: done" not in again.said(), "what was finished was done again"
    _, differences = compared(alone, again)
    assert not any(differences.values()), differences


def ask(submission, route, headers=None):
    """Answer of the head's dashboard, where the job API is."""
    method, path = route.format(id=submission.id).split(" ")
    address = submission.cluster.dashboard + path
    request = urllib.request.Request(address, method=method, headers=headers or {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


@pytest.mark.parametrize("route", ROUTES)
def test_the_job_api_answers_nobody_without_the_token(submission, route):
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(submission, route)
    refused.value.close()
    assert refused.value.code == 401


def test_secrets_are_found_nowhere(submission, found, cluster, folder):
    """The cluster's token, the bucket's secret and the password of MLflow."""
    secrets = [secret.encode() for secret in (cluster.token, SECRET, found.password)]
    credentials = {cluster.folder / "token", found.credentials}
    places = [cluster.folder, found.credentials.parent, folder]
    files = {path for place in places for path in place.rglob("*") if path.is_file()}
    bodies = {str(path): path.read_bytes() for path in files}
    for name in ("chain", "killed", "headless", "mlflow"):
        bodies |= found.store(name).objects()
    allowed = {"Authorization": f"Bearer {cluster.token}"}
    for route in (route for route in ROUTES if route.startswith("GET")):
        bodies[route] = ask(submission, route, allowed)
    bodies["database"] = dumped(found.database)
    assert b"chain" in bodies["database"]
    assert submission.id.encode() in bodies["GET /api/jobs/"]
    holding = {name for name, body in bodies.items() if any(map(body.__contains__, secrets))}
    assert holding == set(map(str, credentials))


def dumped(address):
    """All that a database holds."""
    folder = address.rpartition("host=")[2]
    command = [BINARIES[-1] / "pg_dump", "-h", folder, "-U", "mlflow", "mlflow"]
    return subprocess.run(command, capture_output=True, check=True, env=os.environ).stdout
