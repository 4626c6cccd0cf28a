"""A cluster is checked before it is used; what is wrong with it is told with a remedy."""

import json
import subprocess
import sys

import pytest

from pipeline.chain import cluster_check
from pipeline.credentials import SUBMISSION
from tests.ray_head import head, job
from tests.tiny_run import ROOT

WORD = "0f" * 16


def facts(**changes):
    known = {
        "host": "a",
        "versions": {"python": "3.11.7", "ray": "2.60.0"},
        "unix_s": 1000.0,
        "asked_s": 1000.0,
        "unsure_s": 0.0,
        "read": WORD,
        "wrote": "a-1",
        "problem": "",
    }
    return known | changes


def test_nodes_of_other_versions_are_named():
    other = facts(host="b", versions={"python": "3.11.7", "ray": "2.59.0"})
    (good,) = cluster_check._versions([facts(), facts(host="b")])
    (bad,) = cluster_check._versions([facts(), other])
    assert good["ok"]
    assert not bad["ok"]
    assert bad["found"]["others"] == {"b": other["versions"]}


@pytest.mark.parametrize(
    ("ahead_s", "unsure_s", "ok"), [(29, 0, True), (31, 0, False), (-40, 5, False), (40, 15, True)]
)
def test_a_clock_is_judged_by_what_is_certain(ahead_s, unsure_s, ok):
    """An answer that took 2 x ``unsure_s`` may have been given at any moment of it."""
    node = facts(host="b", unix_s=1000.0 + ahead_s, unsure_s=float(unsure_s))
    (found,) = cluster_check._clocks([facts(), node])
    assert found["ok"] is ok


def test_storage_that_is_not_one_folder_is_told(tmp_path):
    (tmp_path / "a-1").write_text("a-1")
    (tmp_path / "b-1").write_text("b-1")
    nodes = [
        facts(),
        facts(host="b", wrote="b-1"),
        facts(host="c", wrote="c-1"),
        facts(host="d", read="", problem="FileNotFoundError: driver"),
        facts(host="e", read="other", wrote="b-1"),
    ]
    (good,) = cluster_check._storage(nodes[:2], str(tmp_path), WORD)
    (bad,) = cluster_check._storage(nodes, str(tmp_path), WORD)
    assert good["ok"]
    assert bad["found"] == [
        "d: FileNotFoundError: driver",
        "e read other bytes",
        "c wrote what the driver does not see",
    ]


def read(done):
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["check"]: line for line in lines if "check" in line}, lines[-1]["failed"]


@pytest.fixture(scope="module")
def cluster():
    with head(token=True) as environment:
        yield environment


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_cluster_with_a_token_passes_and_what_it_lacks_is_named(tmp_path, cluster):
    output = f"output_dir={tmp_path / 'run'}"
    done = job("preflight", "--set", output, environment=cluster)
    checks, failed = read(done)
    assert done.returncode == 0, done.stderr
    assert failed == []
    assert {"versions", "clocks", "storage", "tokens", "resources of prior"} <= set(checks)
    assert checks["storage"]["found"] == "1 nodes"
    assert checks["versions"]["found"]["driver"]["ray"] == "2.60.0"
    assert not list((tmp_path / "run").glob("*")), "nothing is left behind"

    how = {"num_workers": 2, "threads": 1, "decoders": 0}
    two = [word for name in how for word in ("--set", f"prior.execution.{name}={how[name]}")]
    done = job("preflight", "--set", output, *two, "--stage", "prior", environment=cluster)
    checks, failed = read(done)
    assert done.returncode == 0, done.stderr
    met = checks["all-reduce of prior"]["found"]
    assert (met["workers"], met["backend"]) == (2, "gloo")
    assert met["gigabytes_per_s"] > 0
    assert not list((tmp_path / "run").glob("*")), "nothing is left behind"

    wrong = ["--set", "output_dir=/proc/run", "--set", "prior.execution.gpus_per_worker=1"]
    more = ["--stage", "prior", "--stage", "embed"]
    done = job("preflight", *wrong, *more, environment=cluster)
    checks, failed = read(done)
    assert done.returncode == 3
    assert failed == ["storage", "resources of prior"]
    assert checks["resources of prior"]["found"]["there"]["GPU"] == 0
    assert "resources of embed" in checks
    assert "resources of clip" not in checks
    assert all("remedy" in checks[name] for name in failed)


ASKED = """
import os
from pipeline.runtime import RayConfig, prepare_environment, ray_session
prepare_environment()
with ray_session(RayConfig()):
    import ray
    print(ray.get(ray.remote(os.getenv).remote("WDS_SECURE")))
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("env_vars", "seen"), [({}, "1"), ({"WDS_SECURE": "yes"}, "yes")])
def test_workers_of_a_cluster_have_the_variables_of_the_driver(cluster, env_vars, seen):
    """And those of the submission, which come first."""
    config = json.dumps({"runtime_env": {"env_vars": env_vars}, "metadata": {}})
    done = subprocess.run(
        [sys.executable, "-c", ASKED],
        cwd=ROOT,
        env={**cluster, SUBMISSION: config},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [seen], done.stderr
