"""Text → 64 px → 256 px against diffusers' ``UnCLIPPipeline`` with the same, exported weights.

Both sides take the same prompts, steps, guidance and precision, ancestral sampling in prior and
decoder, and make PIL pictures; each in a process of its own. Weights are random. On a CPU the CPU
time of a side is what counts, so that other work on the machine does not. The peak of memory is
what a side adds to its imports.

``python -m tests.benchmarks.generation``; ``--device cuda`` takes larger networks.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.generation.run_stages import RunStages, read_sampling
from pipeline.generation.weights import read_stack
from pipeline.identity import fingerprint
from pipeline.interop.diffusers.write import export
from pipeline.results import INDEX
from tests.benchmarks.paired import compare, finish, verdict
from tests.exportable_stack import TASKS, make_run

DIFFUSERS = importlib.metadata.version("diffusers")
AT_LEAST, AT_LEAST_MEMORY = 1.1, 1.0
PROMPTS = [
    "a red circle on a grey background",
    "a corgi playing a flame throwing trumpet",
]
SIZES = {
    "cpu": {"embed": 96, "prior": (192, 4), "decoder": 32, "upsampler": 16, "draws": 1},
    "cuda": {"embed": 768, "prior": (1024, 12), "decoder": 192, "upsampler": 128, "draws": 4},
}
SETTINGS = {
    "prior_steps": 5,
    "decoder_steps": 5,
    "upsampler_steps": 3,
    "prior_scale": 4.0,
    "decoder_scale": 4.0,
    "batch": len(PROMPTS),
    "prompts": PROMPTS,
}


def main() -> int:
    """Compare speed and memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        size = SIZES[arguments.device]
        places = make_stack(Path(folder), size)
        how = {"device": arguments.device, "threads": arguments.threads, "draws": size["draws"]}
        sides = [Side(name, {**SETTINGS, **places, **how}) for name in ("ours", "diffusers")]
        return finish(_compare(*sides, arguments.pairs))


def _compare(ours: "Side", peer: "Side", num_pairs: int) -> list[dict[str, Any]]:
    stated = {k: v for k, v in peer.settings.items() if k not in ("run", "exported", "prompts")}
    peer_named = {
        "command": "UnCLIPPipeline in tests/benchmarks/generation_side.py",
        "version": f"diffusers {DIFFUSERS}, torch {torch.__version__}",
        "device": torch.cuda.get_device_name() if stated["device"] == "cuda" else "cpu",
        "settings": stated,
        "input": fingerprint(PROMPTS),
    }
    speed = compare(
        "generation, 64 to 256 px",
        ours.rate,
        peer.rate,
        unit=ours.unit,
        at_least=AT_LEAST,
        peer_named=peer_named,
        num_pairs=num_pairs,
    )
    speed |= {"pictures_per_s": ours.wall_rate(), "peer_pictures_per_s": peer.wall_rate()}
    memory = verdict(
        "generation, memory",
        list(zip(ours.pictures_per_gib(), peer.pictures_per_gib(), strict=True)),
        unit="pictures/GiB",
        at_least=AT_LEAST_MEMORY,
        peer_named=peer_named,
        also={},
    )
    ours.close()
    peer.close()
    return [speed, memory]


def make_stack(folder: Path, size: dict[str, Any]) -> dict[str, str]:
    """A run's folder with random weights, and the same exported."""
    embed, (width, layers) = size["embed"], size["prior"]
    shape = {"embed_dim": embed, "text_width": embed, "context_length": 77}
    heads = embed // 32
    clip = {
        "embed_dim": embed,
        "vision": {"image_px": 64, "patch_px": 16, "width": embed, "layers": 2, "heads": heads},
        "text": {"width": embed, "layers": 6, "heads": heads, "context_length": 77},
    }
    unet = {"multipliers": [1, 2, 3, 4], "res_blocks": 2, "head_width": 16, "norm_groups": 8}
    plain = {**unet, "multipliers": [1, 2, 3], "mid_attention": False}
    steps = {"num_steps": 1000, "schedule": "cosine"}
    decoder = {
        "clip": shape,
        "image_px": 64,
        "unet": {**unet, "channels": size["decoder"], "attention_levels": [1, 2, 3]},
        "context_width": 2 * size["decoder"],
        "learned_variance": True,
    }
    upsampler = {
        "low_px": 64,
        "high_px": 256,
        "unet": {**plain, "channels": size["upsampler"]},
        "resize": "bicubic",
    }
    prior = {"clip": shape, "width": width, "layers": layers, "head_width": 32}
    tasks = {
        "prior": {**TASKS["prior"], "model": prior, "diffusion": steps | {"prediction": "x_start"}},
        "decoder": {
            **TASKS["decoder"],
            "model": decoder,
            "diffusion": steps | {"prediction": "eps"},
        },
        "upsampler_64_256": {
            **TASKS["upsampler_16_32"],
            "model": upsampler,
            "diffusion": steps | {"prediction": "x_start"},
        },
        "upsampler_16_32": None,
        "upsampler_32_64": None,
    }
    run, exported = folder / "run", folder / "exported"
    make_run(run, tasks, clip)
    _sample_as_the_peer(run)
    files = read_stack(RunStages.read(str(run)))
    export(files, read_sampling(str(run)), str(exported), DIFFUSERS)
    return {"run": str(run), "exported": str(exported)}


def _sample_as_the_peer(run: Path) -> None:
    index = json.loads((run / INDEX).read_text())
    index["config"]["generate"] = {
        "prior": {
            "num_steps": SETTINGS["prior_steps"],
            "num_candidates": 1,
            "guidance_scale": SETTINGS["prior_scale"],
        },
        "decoder": {
            "num_steps": SETTINGS["decoder_steps"],
            "guidance_scale": SETTINGS["decoder_scale"],
            "sampler": "ddpm",
        },
        "upsamplers": [{"num_steps": SETTINGS["upsampler_steps"]}],
    }
    (run / INDEX).write_text(json.dumps(index))


class Side:
    """One library's stack in an interpreter of its own, ready to draw."""

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        """Start it and let it draw once."""
        self.settings, self._told = settings, list[dict[str, float]]()
        self._clock = "cpu_s" if settings["device"] == "cpu" else "seconds"
        self.unit = "pictures/CPU-s" if settings["device"] == "cpu" else "pictures/s"
        root = Path(__file__).parents[2]
        script = str(Path(__file__).with_name("generation_side.py"))
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", script, json.dumps({**settings, "side": name})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1"},
        )
        self._answer()

    def rate(self) -> float:
        """Draw; pictures per second."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{self.settings['draws']}\n")
        self._process.stdin.flush()
        self._told.append(self._answer())
        return self._pictures() / self._told[-1][self._clock]

    def wall_rate(self) -> float:
        """Median pictures per second that have passed on the wall."""
        return self._pictures() / float(np.median([each["seconds"] for each in self._told]))

    def pictures_per_gib(self) -> list[float]:
        """Pictures of a batch per GiB that drawing takes at its peak, the models included."""
        return [self.settings["batch"] * 2**30 / each["bytes"] for each in self._told]

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _pictures(self) -> int:
        return self.settings["draws"] * self.settings["batch"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a side ended before it answered: {self.settings}")
        return json.loads(line)


if __name__ == "__main__":
    sys.exit(main())
