import pytest
import ray

from pipeline import runtime
from pipeline.errors import EXIT_LATER, BusyError
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
