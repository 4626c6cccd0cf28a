"""Readings of this very machine."""

import json
import time
from functools import partial

import psutil
import torch

from pipeline.training.node import Meter, metered


def test_a_reading_tells_shares_bytes_and_rates():
    meter = Meter()
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    found = meter.read()
    assert 0 < found["cpu_share"] <= 1
    assert all(0 <= found[name] <= 1 for name in found if name.endswith("share"))
    assert 0 < found["memory_bytes"] < psutil.virtual_memory().total
    assert all(value >= 0 for value in found.values())
    assert {"network_in_bytes_per_s", "network_out_bytes_per_s"} <= found.keys()
    assert ("gpu_0_memory_bytes" in found) == torch.cuda.is_available()


def test_a_training_leaves_at_least_one_reading_with_its_place(tmp_path):
    for seen in (40, 80):
        with metered(str(tmp_path), "n1", partial(int, seen)):
            pass
    names = sorted(path.name for path in (tmp_path / "system" / "n1").iterdir())
    assert names == ["00001.jsonl", "00002.jsonl"]
    point = json.loads((tmp_path / "system" / "n1" / "00002.jsonl").read_text())
    assert point["samples_seen"] == 80
    assert abs(point["at_ms"] / 1000 - time.time()) < 60
    assert 0 <= point["system/n1/memory_share"] <= 1
