"""A full disk costs time and nothing else, wherever in a stage it happens."""

import json
import subprocess
import sys

import pytest

from tests.picture_corpus import photograph, saved
from tests.tiny_run import ROOT

OF_OUR_OWN = ["unshare", "--map-root-user", "--mount"]
"""Mounts that nobody else sees."""
MAY_MOUNT = subprocess.run([*OF_OUR_OWN, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not MAY_MOUNT, reason="user namespaces are switched off here")
def test_a_full_disk_stops_with_its_path_and_space_lets_it_go_on(tmp_path):
    (tmp_path / "pictures").mkdir()
    for number in range(12):
        picture = saved(photograph(number, 160, 120), "JPEG", quality=90)
        (tmp_path / "pictures" / f"{number}.jpg").write_bytes(picture)
    command = [sys.executable, "-m", "tests.chaos.full_disk", str(tmp_path)]
    done = subprocess.run(
        [*OF_OUR_OWN, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert len(told["said"]) >= 3, "it was full too seldom to prove anything"
    assert len({said.partition(":")[0] for said in told["said"]}) >= 2, told["said"]
    for said in told["said"]:
        assert said.startswith(str(tmp_path / "disk"))
        assert "the disk is full (" in said
    assert told["wrong"] == []
    assert told["files"] > 5
