import io

import pytest
import ray
from ray.data import DataContext
from ray.data.exceptions import ExecutionTimeoutError

from pipeline import runtime
from pipeline.errors import EXIT_LATER, BusyError, StalledError
from pipeline.progress import Progress
from pipeline.runtime import RayConfig


def fails_with(monkeypatch, message):
    def init(**_):
        raise Exception(message)

    monkeypatch.setattr(ray, "init", init)


def test_a_machine_too_busy_to_start_ray_is_tried_again_later(monkeypatch):
    fails_with(monkeypatch, "The current node timed out during startup. This could happen")
    with pytest.raises(BusyError, match="too busy now") as raised, runtime.ray_session(RayConfig()):
        pass
    assert raised.value.exit_code == EXIT_LATER


def test_another_failure_of_ray_is_told_as_it_is(monkeypatch):
    fails_with(monkeypatch, "no such option")
    with pytest.raises(Exception, match="no such option"), runtime.ray_session(RayConfig()):
        pass


@pytest.mark.filterwarnings("default")  # Ray warns of its own deprecations
def test_a_graph_that_stands_still_is_told_by_its_step_and_its_operators(monkeypatch):
    monkeypatch.setattr(ray, "init", lambda **_: None)
    message = (
        "no progress\nOperators still running:\n  - Map(_task): 1 active task(s), 3 finished\n"
    )
    told = r"for 5 s \(in crawl, Map\(_task\): 1 active task\(s\), 3 finished\).*ray\.stall_s"

    def stand_still():
        with (
            runtime.ray_session(RayConfig(stall_s=5.0)),
            Progress(io.StringIO()).stage("crawl", total=4, unit="partitions"),
        ):
            assert DataContext.get_current().execution_no_progress_timeout_s == 5.0
            raise ExecutionTimeoutError(message)

    with pytest.raises(StalledError, match=told) as raised:
        stand_still()
    assert raised.value.exit_code == EXIT_LATER
