"""Nodes that a run file asks for by their labels, on a real local Ray."""

import pytest
import ray

from pipeline import placement
from pipeline.errors import EXIT_USAGE, ConfigError
from pipeline.partitions import map_partitions
from pipeline.runtime import RayConfig, prepare_environment, ray_session
from pipeline.training.execution import TrainExecution
from pipeline.training.workers import all_reduce_rate

# Ray warns of its own deprecations, which nobody here can mend.
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def labels():
    """Of the one node of a private Ray."""
    prepare_environment()
    with ray_session(RayConfig(num_cpus=2)):
        yield ray.nodes()[0]["Labels"]
        placement.place(tasks_on={}, models_on={})


def test_a_private_ray_does_all_on_its_one_node(labels):
    assert placement.tasks_on() is None
    assert placement.models_on() is None


def test_labels_that_no_node_has_are_told_with_those_there_are(labels, monkeypatch):
    monkeypatch.setattr(placement, "NODE_S", 2.0)
    with pytest.raises(ConfigError, match=r"ray\.models_on=\{'pool': 'gqu'\}: no such") as told:
        placement.place(tasks_on={}, models_on={"pool": "gqu"})
    assert told.value.exit_code == EXIT_USAGE
    with pytest.raises(ConfigError, match=r"execution\.ray\.tasks_on"):
        placement.place(tasks_on={"pool": "cqu"}, models_on={})


def test_workers_that_find_no_room_at_once_are_told(labels, monkeypatch, tmp_path):
    monkeypatch.setattr(placement, "NODE_S", 2.0)
    execution = TrainExecution(num_workers=2, threads=2, checkpoint_every_s=60)
    with pytest.raises(ConfigError, match=r"2 workers of \{'CPU': 2.0\} find no room at once"):
        all_reduce_rate(execution, str(tmp_path))
    assert ray.available_resources()["CPU"] == 2


def test_tasks_run_where_labels_are_met(labels):
    (name, value), *_ = labels.items()
    placement.place(tasks_on={name: value}, models_on={})
    assert placement.tasks_on() == {name: value}
    assert list(map_partitions(_doubled, [{"n": 1}])) == [{"n": 2}]


def _doubled(row):
    return {"n": 2 * row["n"]}
