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
