"""A cluster that anybody may command is not worked on, unless the run file says so."""

import pytest

from pipeline.cluster_guard import _is_loopback
from tests.ray_head import head, job

ALLOWED = ["--set", "execution.ray.allow_open_cluster=true"]


@pytest.mark.parametrize(
    ("address", "is_loopback"),
    [
        ("127.0.0.1:6379", True),
        ("127.8.0.1:6379", True),
        ("localhost:6379", True),
        ("[::1]:6379", True),
        ("10.0.0.1:6379", False),
        ("head.internal:6379", False),
        ("127.0.0.1.example:6379", False),
    ],
)
def test_loopback_is_this_machine_alone(address, is_loopback):
    assert _is_loopback(address) is is_loopback


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_open_cluster_is_refused_unless_the_run_file_allows_it(tmp_path):
    arguments = ["--set", f"output_dir={tmp_path / 'run'}"]
    with head(token=False) as environment:
        done = job("queries", *arguments, environment=environment)
        assert done.returncode == 2, done.stderr
        assert "answers without a token" in done.stderr
        assert "execution.ray.allow_open_cluster=true" in done.stderr
        assert not (tmp_path / "run/queries").exists()
        done = job("queries", *arguments, *ALLOWED, environment=environment)
        assert done.returncode == 0, done.stderr
        assert list((tmp_path / "run/queries").glob("*/manifest.json"))
