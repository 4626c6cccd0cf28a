"""A node that dies in the middle of ``curate`` costs time and nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.node import balanced
from tests.local_curation import curate_pictures
from tests.picture_corpus import photograph, saved
from tests.tiny_run import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

NUM = 240


def test_a_stage_survives_the_death_of_a_node(tmp_path, monkeypatch):
    pictures = {
        f"{number}.jpg": saved(photograph(number, 900, 700), "JPEG", quality=92)
        for number in range(NUM)
    }
    (tmp_path / "cluster" / "pictures").mkdir(parents=True)
    for name, body in pictures.items():
        (tmp_path / "cluster" / "pictures" / name).write_bytes(body)
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.node", str(tmp_path / "cluster")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    killed = [note for note in told["ran"] if note["event"] == "killed"]
    assert [note["raylet"] for note in killed] == [told["victim"]]
    lost = unfinished(told["ran"], told["victim"])
    assert lost, "the node died between two partitions, which proves nothing"
    survivors = {note["raylet"] for note in told["ran"] if note["event"] == "ended"}
    assert len(survivors - {told["victim"]}) == 1
    monkeypatch.setattr(
        "tests.local_curation.balanced_of", lambda folder, *_: balanced(Path(folder))
    )
    _, expected = curate_pictures(tmp_path / "alone", pictures, monkeypatch)
    assert told["content"] == json.loads(json.dumps(expected.content))


def unfinished(notes, raylet):
    """Partitions of the crawl that a node started and never ended."""
    mine = [note for note in notes if (note["raylet"], note["step"]) == (raylet, "crawl")]
    numbers = {
        event: {note["number"] for note in mine if note["event"] == event}
        for event in ("started", "ended")
    }
    return numbers["started"] - numbers["ended"]
