import subprocess
import sys

from pipeline.memory import PeakMemory, tree_pss_bytes

HOG = """
import sys
block = bytearray(80 << 20)
block[::4096] = b"1" * len(block[::4096])
print("ready", flush=True)
sys.stdin.read()
"""


def test_children_are_counted_and_the_peak_stays():
    with PeakMemory() as peak:
        before = tree_pss_bytes()
        child = subprocess.Popen(
            [sys.executable, "-c", HOG], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        child.stdout.readline()
        assert peak.mark() - before > 70 << 20
        child.communicate()
        assert peak.mark() >= 0
        assert tree_pss_bytes() < before + (40 << 20)
    assert peak.peak_bytes - before > 70 << 20


def test_a_process_that_keeps_freed_memory_takes_no_new_pages_for_the_same_tensors():
    script = (
        "import resource, sys, numpy as np; from pipeline.memory import keep_freed_memory\n"
        "if sys.argv[1] == 'keep': keep_freed_memory()\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "def work(): [np.ones(2 << 20) for _ in range(3)]\n"
        "work(); before = faults()\n"
        "for _ in range(20): work()\n"
        "print(faults() - before)"
    )
    counts = {
        how: int(subprocess.run([sys.executable, "-c", script, how], capture_output=True).stdout)
        for how in ("keep", "return")
    }
    assert counts["keep"] < counts["return"] / 10, counts


def test_freed_memory_is_given_back():
    script = (
        "import sys; from pipeline.memory import return_freed_memory, tree_pss_bytes\n"
        "pieces = [bytes(9000) for _ in range(8000)]\n"  # each below what is mapped by itself
        "last = bytes(9000); del pieces; before = tree_pss_bytes()\n"
        "return_freed_memory(); print(before - tree_pss_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert int(done.stdout) > 40 << 20
