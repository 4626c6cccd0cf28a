"""Training steps of U-Net and prior against lucidrains' DALLE2-pytorch and diffusers' modules.

All sides take the same steps (``train_step_side.py``) on the same random inputs, each in a process
of its own; DALLE2-pytorch in an environment of its own, which is made here, with our torch. Batch
and sizes are equal, parameters within 1 %. Captions have all 77 tokens; where they have fewer
(``--tokens 16``), the peers compute their padding and ours, as in training on a CPU, does not. On a
CPU the CPU time of a side is what counts, so that other work on the machine does not. The peak of
memory is what a side adds to its imports.

``python -m tests.benchmarks.train_step``; ``--device cuda`` takes larger networks, in bfloat16.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.benchmarks.matching import peer_python
from tests.benchmarks.paired import compare, finish, verdict

TORCH = torch.__version__.split("+")[0]
DALLE2_PYTORCH = "1.15.6"
AT_LEAST = {"dalle2-pytorch": 1.2, "diffusers": 1.0}
SIZES = {
    ("cpu", "unet"): {"width": 64, "batch": 2},
    ("cpu", "prior"): {"width": 512, "layers": 8, "batch": 16},
    ("cuda", "unet"): {"width": 192, "batch": 32},
    ("cuda", "prior"): {"width": 1024, "layers": 16, "batch": 256},
}
STEPS = {"cpu": 1, "cuda": 10}
"""Steps of one side of a pair."""


def main() -> int:
    """Compare both networks with both peers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tokens", type=int, default=77, help="of every caption, 1 to 77")
    parser.add_argument("--networks", nargs="+", choices=["unet", "prior"], default=None)
    arguments = parser.parse_args()
    found = []
    for network in arguments.networks or ["unet", "prior"]:
        size = SIZES[arguments.device, network]
        common = {
            "device": arguments.device,
            "tokens": arguments.tokens,
            "network": network,
            **size,
        }
        for threads in arguments.threads if arguments.device == "cpu" else [1]:
            found += _against_both({**common, "threads": threads})
    return finish(found)


def _against_both(settings: dict[str, Any]) -> list[dict[str, Any]]:
    ours = Side("ours", settings)
    results = []
    for name in AT_LEAST:
        peer = Side(name, {**settings, "parameters": ours.parameters})
        results += _against(ours, peer)
        peer.close()
    ours.close()
    return results


def _against(ours: "Side", peer: "Side") -> list[dict[str, Any]]:
    settings = peer.settings
    name = f"{settings['network']}, {settings['threads']} threads, {peer.name}"
    peer_named = {
        "command": "tests/benchmarks/train_step_side.py",
        "version": f"{peer.name} {_version(peer.name)}, torch {TORCH}",
        "device": torch.cuda.get_device_name() if settings["device"] == "cuda" else "cpu",
        "settings": settings,
        "parameters": peer.parameters,
        "input": "random, seed 0",
    }
    ours.told.clear()
    speed = compare(
        name,
        ours.rate,
        peer.rate,
        unit=ours.unit,
        at_least=AT_LEAST[peer.name],
        peer_named=peer_named,
        parameters=ours.parameters,
    )
    speed |= {"samples_per_s": ours.wall_rate(), "peer_samples_per_s": peer.wall_rate()}
    memory = verdict(
        f"{name}, memory",
        list(zip(ours.samples_per_gib(), peer.samples_per_gib(), strict=True)),
        unit="samples/GiB",
        at_least=1.0,
        peer_named=peer_named,
        also={},
    )
    return [speed, memory]


class Side:
    """One library's network in an interpreter of its own, ready to take steps."""

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        """Start it and let it take a first step."""
        self.name, self.settings = name, settings
        self.on_cpu = settings["device"] == "cpu"
        self.unit = "samples/CPU-s" if self.on_cpu else "samples/s"
        self.told: list[dict[str, float]] = []
        python = sys.executable
        if name == "dalle2-pytorch":
            python = peer_python(f"{name}=={_version(name)}", f"torch=={TORCH}")
        script = str(Path(__file__).with_name("train_step_side.py"))
        self._process = subprocess.Popen(
            [python, "-W", "ignore", script, json.dumps({**settings, "side": name})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        self.parameters = self._answer()["parameters"]

    def rate(self) -> float:
        """Take steps; samples per second."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{STEPS[self.settings['device']]}\n")
        self._process.stdin.flush()
        self.told.append(self._answer())
        return self._samples() / self.told[-1]["cpu_s" if self.on_cpu else "seconds"]

    def wall_rate(self) -> float:
        """Median samples per second that have passed on the wall."""
        return self._samples() / float(np.median([each["seconds"] for each in self.told]))

    def samples_per_gib(self) -> list[float]:
        """Samples of a batch per GiB that a step takes at its peak."""
        return [self.settings["batch"] * 2**30 / each["bytes"] for each in self.told]

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _samples(self) -> int:
        return STEPS[self.settings["device"]] * self.settings["batch"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended before it answered: {self.settings}")
        return json.loads(line)


def _version(name: str) -> str:
    return DALLE2_PYTORCH if name == "dalle2-pytorch" else importlib.metadata.version(name)


if __name__ == "__main__":
    sys.exit(main())
