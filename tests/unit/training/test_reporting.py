"""The points of the curve that are about speed."""

import time
from dataclasses import replace

import pytest
import torch

from pipeline import gpus
from pipeline.models.config import ClipConfig
from pipeline.training import spool
from pipeline.training.budget import budget
from pipeline.training.launch import _flops_per_sample
from pipeline.training.reporting import Report
from tests.synthetic import loop_settings, make_dataset, train_config
from tests.tiny_stack import CLIP, make_stack


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"))


def stepped(settings, peak_flops=None):
    """A report that was told of two steps."""
    report = Report(settings, 0)
    report._peak_flops = peak_flops
    for step in (1, 2):
        report.count(torch.tensor([8.0]), torch.tensor(1.0), torch.tensor(0.0), 1e-3)
        report.after(step)
    report.flush()
    return spool.read(settings.uri)


def test_mfu_is_the_share_of_the_peak_that_the_samples_took(dataset, tmp_path):
    settings = replace(loop_settings(dataset, tmp_path), flops_per_sample=3e6)
    for point in stepped(settings, peak_flops=1e9):
        assert point["mfu"] == pytest.approx(point["samples_per_s"] * 3e6 / 1e9)


def test_without_a_stated_peak_there_is_no_mfu(dataset, tmp_path):
    settings = replace(loop_settings(dataset, tmp_path), flops_per_sample=3e6)
    assert all("mfu" not in point for point in stepped(settings))


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 PCIe", None),  # slower than the board of the table
        ("NVIDIA GH200 480GB", None),
        ("Tesla T4", None),
    ],
)
def test_a_peak_is_known_by_the_drivers_name(name, known):
    found = gpus.of_device(name)
    assert (None if found is None else found.name) == known


def test_the_first_step_is_timed_from_the_call_or_from_the_end_of_the_attempt_before(
    dataset, tmp_path
):
    settings = replace(loop_settings(dataset, tmp_path), asked_s=time.time() - 100)
    first, second = stepped(settings)
    assert first["time_to_first_step_s"] == pytest.approx(100, abs=5)
    assert "time_to_first_step_s" not in second
    again = stepped(settings)  # its work interval has just ended
    assert again[0]["time_to_first_step_s"] < 50


def test_operations_are_counted_with_the_clip_that_captions_are_read_through(tmp_path):
    clip = make_stack(tmp_path)["clip"]
    config = train_config()
    counted = _flops_per_sample(config, {"clip": clip})
    assert counted == budget(config, ClipConfig.model_validate(CLIP)).training_flops > 0
