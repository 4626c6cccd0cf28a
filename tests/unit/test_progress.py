import io
import threading
from typing import ClassVar

import pytest

from pipeline import gauges
from pipeline.progress import Progress


class Terminal(io.TextIOWrapper):
    def isatty(self):
        return True


def show(kind):
    stream = kind(io.BytesIO(), encoding="utf-8", write_through=True)
    progress = Progress(stream)
    with progress.stage("crawl", total=4, unit="partitions") as bar:
        bar.advance(1, kept=3, dropped=1)
        bar.advance(1, kept=2, dropped=0)
        bar.measure(mfu=0.5)
        bar.to(4, loss=0.25)
    progress.say("done")
    stream.flush()
    return stream.buffer.getvalue().decode()


def test_a_terminal_gets_a_bar_with_counts():
    text = show(Terminal)
    assert "crawl" in text
    assert "4/4" in text
    assert "kept=5" in text
    assert text.rstrip().endswith("done")


def test_another_stream_gets_plain_lines():
    lines = show(io.TextIOWrapper).splitlines()
    assert lines[0].startswith("crawl: 4/4 partitions")
    assert lines[0].endswith("kept=5 dropped=1 loss=0.25")
    assert lines[1] == "done"


def test_a_bar_is_closed_when_its_block_fails():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with pytest.raises(ValueError, match="x"), Progress(stream).stage("crawl", 2, "s") as bar:
        bar.advance()
        raise ValueError("x")
    assert stream.buffer.getvalue().decode().startswith("crawl: 1/2 s")


def test_what_an_earlier_call_did_is_no_rate_of_this_one(monkeypatch):
    clock = iter([0.0, 0.0, 10.0, 20.0, 20.0])
    monkeypatch.setattr("pipeline.progress.time.monotonic", lambda: next(clock))
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with Progress(stream).stage("prior", total=1000, unit="samples") as bar:
        bar.begin(800)
        bar.to(900)
    line = stream.buffer.getvalue().decode()
    assert line.startswith("prior: 900/1000 samples 10.0/s 10s left=10s")


class Recorded:
    """Stands where Ray's gauges stand; what is set is kept by name and labels."""

    values: ClassVar[dict] = {}

    def __init__(self, name, description, tag_keys):
        self.name, self.tag_keys = name, tag_keys

    def set(self, value, tags):
        assert set(tags) == set(self.tag_keys)
        self.values[(self.name, *tags.values())] = value


def test_a_bar_says_its_numbers_to_prometheus_where_ray_runs(monkeypatch):
    import ray.util.metrics

    monkeypatch.setattr(ray.util.metrics, "Gauge", Recorded)
    monkeypatch.setattr(gauges, "_ray_runs", lambda: True)
    show(io.TextIOWrapper)
    assert Recorded.values == {
        ("unclip_done", "crawl", "partitions"): 4,
        ("unclip_total", "crawl", "partitions"): 4,
        ("unclip_note", "crawl", "partitions", "kept"): 5,
        ("unclip_note", "crawl", "partitions", "dropped"): 1,
        ("unclip_note", "crawl", "partitions", "loss"): 0.25,
        ("unclip_note", "crawl", "partitions", "mfu"): 0.5,
    }


def test_a_stage_that_has_not_done_a_unit_is_seen_standing(monkeypatch):
    import ray.util.metrics

    monkeypatch.setattr(ray.util.metrics, "Gauge", Recorded)
    monkeypatch.setattr(gauges, "_ray_runs", lambda: True)
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with Progress(stream).stage("match", total=4, unit="shards"):
        pass
    assert Recorded.values[("unclip_done", "match", "shards")] == 0
    assert Recorded.values[("unclip_total", "match", "shards")] == 4


def test_without_ray_no_thread_is_started():
    show(io.TextIOWrapper)
    assert "gauges" not in {thread.name for thread in threading.enumerate()}
