"""What is handed over to the tracker: every number once, whenever it comes."""

import json

from pipeline.tracking import StageRun
from pipeline.tracking_store import Book

KEY = "prior/0123456789ab"


def opened(folder, sent):
    """A stage's run in a new process, whose messages are kept instead of sent."""

    def add(key, kind, **content):
        assert (key, kind) == (KEY, "metrics")
        sent.extend(content["records"])

    return StageRun(add, Book(str(folder)), KEY)


def test_what_a_look_finds_after_later_steps_is_handed_over_once(tmp_path):
    sent = []
    run = opened(tmp_path, sent)
    steps = [{"samples_seen": n, "loss": 1.0 / n} for n in (8, 16, 24, 32)]
    run.publish(steps)
    looks = [{"samples_seen": n, "validation_loss": 0.5} for n in (16, 24)]
    run.publish(looks[:1])
    assert sent == [*steps, looks[0]]
    again = opened(tmp_path, sent)
    again.publish([*steps, *looks])
    again.publish([*steps, *looks])
    assert sent == [*steps, *looks]


def test_records_of_one_step_give_their_new_names(tmp_path):
    sent = []
    run = opened(tmp_path, sent)
    run.publish([{"samples_seen": 8, "loss": 1.0}])
    run.publish([{"samples_seen": 8, "loss": 1.0, "validation_loss": 0.5}])
    assert sent[1:] == [{"samples_seen": 8, "validation_loss": 0.5}]


def test_readings_of_machines_are_told_apart_by_their_time(tmp_path):
    sent = []
    points = [
        {"samples_seen": 8, "at_ms": at_ms, "system/a/cpu_share": at_ms / 1000}
        for at_ms in (100, 200, 300)
    ]
    opened(tmp_path, sent).publish(points[:2])
    opened(tmp_path, sent).publish(points)
    assert sent == points


def test_an_entry_of_an_earlier_version_is_read(tmp_path):
    sent, path = [], tmp_path / "tracking.json"
    entry = {"run_id": "abc", "published": 16, "published_names": ["loss"]}
    path.write_text(json.dumps({"parent": None, "chain": "c", "stages": {KEY: entry}}))
    points = [{"samples_seen": n, "loss": 1.0} for n in (8, 16, 24)]
    opened(tmp_path, sent).publish(points)
    assert sent == points[2:]


def test_a_picture_is_kept_in_its_series(tmp_path):
    sent = []
    run = StageRun(lambda key, kind, **more: sent.append((kind, more)), Book(str(tmp_path)), KEY)
    run.log_picture(str(tmp_path / "1.png"), 8)
    run.log_picture(str(tmp_path / "2.png"), 8, "guidance")
    assert [kind for kind, _ in sent] == ["picture", "picture"]
    assert [content["series"] for _, content in sent] == ["grid", "guidance"]
