"""What a crawl worker and its decoder hold together, while strangers send them bombs.

Memory is the sum of proportional set sizes (PSS) of the worker and its children, beyond what they
hold when good pictures alone have come.
"""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from pipeline.candidates import urls
from tests import picture_corpus
from tests.fault_server import BOMB_BYTES, FaultServer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
MAX_BYTES = 1_000_000
LIMIT_BYTES = 64 << 20
"""Two large bodies, as many small ones as there are transfers, and what the decoder takes for a
picture of ``MAX_PIXELS``."""
FLAT_BYTES = 6 << 20
"""What the last rounds may hold beyond the first ones, in which the allocator fills its arenas."""
ROUNDS = 6
FIRST = 3
GOOD = [f"http://h{number}.example/colour/{number}.jpg" for number in range(40)]
BOMBS = [f"http://b{number}.example/bomb.jpg" for number in range(6)]
BOMBS += [f"http://raw.example/{name}.jpg" for name in ("endless", "header", "long")]
DECODE = {"max_pixels": picture_corpus.MAX_PIXELS, "cpu_deadline_s": 0.3}


@pytest.fixture(scope="module")
def world():
    with FaultServer() as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The corpus, and a picture of as many pixels as are allowed."""
    folder = tmp_path_factory.mktemp("corpus")
    for name, case in picture_corpus.corpus().items():
        (folder / name).write_bytes(case.body)
    side = int(picture_corpus.MAX_PIXELS**0.5)
    (folder / "largest.png").write_bytes(picture_corpus.flat_png(side))
    return folder


def peaks(server, folder, addresses, rounds, **fields):
    """The largest sum of PSS of each round, and the outcomes of the last."""
    execution = {"max_transfers": 8, "max_large_transfers": 2, "local_root": str(folder)}
    values = {"max_bytes": MAX_BYTES, "num_retries": 0, **fields}
    crawl = server.config(execution=execution, **values)
    asked = {"crawl": crawl.model_dump(mode="json"), "decode": DECODE}
    asked |= {"urls": addresses, "rounds": rounds}
    command = [sys.executable, "-m", "tests.bomb_worker", json.dumps(asked)]
    worker = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    lines, found = [], [0]
    reader = threading.Thread(target=lambda: lines.extend(iter(worker.stdout.readline, "")))
    reader.start()
    while worker.poll() is None:
        while len(found) <= len(lines):
            found.append(0)
        found[-1] = max(found[-1], _pss(worker.pid))
        time.sleep(0.01)
    reader.join(10)
    worker.stdout.close()
    assert worker.returncode == 0
    return found[:rounds], json.loads(lines[-1])


def _pss(pid):
    total = 0
    try:
        whole = psutil.Process(pid)
        for process in (whole, *whole.children(recursive=True)):
            total += process.memory_full_info().pss
    except psutil.Error:  # between two states; the next look sees it
        return 0
    return total


def test_bombs_stay_below_the_limit_round_after_round(world, folder):
    calm, kept = peaks(world, folder, GOOD, 2)
    assert kept == {"kept": len(GOOD)}
    files = [urls.local(path.name) for path in sorted(folder.iterdir())]
    stormy, outcomes = peaks(world, folder, [*GOOD, *BOMBS, *files], ROUNDS)
    assert outcomes["too_many_bytes"] >= len(BOMBS) - 2
    assert outcomes["too_many_pixels"] >= 6
    assert outcomes["decode_timeout"] >= 1
    assert max(stormy) - max(calm) < LIMIT_BYTES, [peak >> 20 for peak in [*calm, *stormy]]
    assert max(stormy[FIRST:]) - max(stormy[:FIRST]) < FLAT_BYTES, [peak >> 20 for peak in stormy]


def test_the_measure_sees_a_limit_that_is_too_high(world, folder):
    calm, _ = peaks(world, folder, GOOD, 1)
    too_much = {"max_bytes": 2 * BOMB_BYTES, "deadline_s": 20.0}
    stormy, _ = peaks(world, folder, BOMBS[:1], 1, **too_much)
    assert max(stormy) - max(calm) > LIMIT_BYTES, [peak >> 20 for peak in [*calm, *stormy]]
