"""Text → 64 px → 256 px against diffusers' ``UnCLIPPipeline`` with the same, exported weights.

Both sides take the same prompts, guidance and precision and make PIL pictures; each in a process of
its own. First with the same few steps, ancestral in prior and decoder; then each by its own default
sampling, whose pictures ``tests.benchmarks.sampling_quality`` compares. Weights are random. On a
CPU the CPU time of a side is what counts, so that other work on the machine does not. The peak of
memory is what a side adds to its imports.

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

from pipeline.generation.config import Sampling
from pipeline.generation.run_stages import RunStages
from pipeline.generation.weights import read_stack
from pipeline.identity import fingerprint
from pipeline.interop.diffusers.write import export
from tests.benchmarks.paired import compare, finish, verdict
from tests.exportable_stack import TASKS, make_run

DIFFUSERS = importlib.metadata.version("diffusers")
AT_LEAST, AT_LEAST_MEMORY, AT_LEAST_BY_DEFAULT = 1.1, 1.0, 3.0
PROMPTS = [
    "a red circle on a grey background",
    "a corgi playing a flame throwing trumpet",
]
SIZES = {
    "cpu": {"embed": 96, "prior": (192, 4), "decoder": 32, "upsampler": 16, "draws": 1},
    "cuda": {"embed": 768, "prior": (1024, 12), "decoder": 192, "upsampler": 128, "draws": 4},
}
FEW_STEPS = {"prior_steps": 5, "decoder_steps": 5, "upsampler_steps": 3}
PEERS_STEPS = {"prior_steps": 25, "decoder_steps": 25, "upsampler_steps": 7}
"""Defaults of ``UnCLIPPipeline``."""
GUIDANCE = {"prior_scale": 4.0, "decoder_scale": 4.0}


def main() -> int:
    """Compare speed and memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    size, few = SIZES[arguments.device], {**FEW_STEPS, **GUIDANCE}
    with tempfile.TemporaryDirectory() as folder:
        drawn = {
            **make_stack(Path(folder), size),
            "device": arguments.device,
            "threads": arguments.threads,
            "draws": size["draws"],
            "prompts": PROMPTS,
            "batch": len(PROMPTS),
        }
        same = _compare(drawn | few, as_the_peer(few), arguments.pairs)
        by_default = _by_default(drawn | PEERS_STEPS | GUIDANCE, arguments.pairs)
        return finish([*same, by_default])


def as_the_peer(settings: dict[str, Any]) -> Sampling:
    """Our way to sample with the peer's steps and guidance."""
    values = {
        "prior": {
            "num_steps": settings["prior_steps"],
            "num_candidates": 1,
            "guidance_scale": settings["prior_scale"],
        },
        "decoder": {
            "num_steps": settings["decoder_steps"],
            "guidance_scale": settings["decoder_scale"],
            "sampler": "ddpm",
        },
        "upsamplers": [{"num_steps": settings["upsampler_steps"]}],
    }
    return Sampling.model_validate(values)


def by_default(prior_scale: float, decoder_scale: float) -> Sampling:
    """What is sampled where a run file says nothing, with this guidance and one upsampler."""
    plain = Sampling()
    return plain.model_copy(
        update={
            "prior": plain.prior.model_copy(update={"guidance_scale": prior_scale}),
            "decoder": plain.decoder.model_copy(update={"guidance_scale": decoder_scale}),
            "upsamplers": plain.upsamplers[:1],
        }
    )


def sides_of(settings: dict[str, Any], sampling: Sampling) -> tuple["Side", "Side"]:
    """Ours with this sampling and the peer's with the steps and scales of ``settings``."""
    told = {**settings, "sampling": sampling.model_dump(mode="json")}
    return Side("ours", told), Side("diffusers", told)


def peer_named(settings: dict[str, Any]) -> dict[str, Any]:
    """What was compared with."""
    stated = {k: v for k, v in settings.items() if k not in ("run", "exported", "prompts")}
    return {
        "command": "UnCLIPPipeline in tests/benchmarks/generation_side.py",
        "version": f"diffusers {DIFFUSERS}, torch {torch.__version__}",
        "device": torch.cuda.get_device_name() if stated["device"] == "cuda" else "cpu",
        "settings": stated,
        "input": fingerprint(list(settings["prompts"])),
    }


def _by_default(settings: dict[str, Any], num_pairs: int) -> dict[str, Any]:
    ours, peer = sides_of(settings, by_default(**GUIDANCE))
    found = compare(
        "generation, default sampling",
        ours.rate,
        peer.rate,
        unit=ours.unit,
        at_least=AT_LEAST_BY_DEFAULT,
        peer_named=peer_named(ours.settings),
        num_pairs=num_pairs,
    )
    ours.close()
    peer.close()
    return found


def _compare(settings: dict[str, Any], sampling: Sampling, num_pairs: int) -> list[dict[str, Any]]:
    ours, peer = sides_of(settings, sampling)
    named = peer_named(ours.settings)
    speed = compare(
        "generation, 64 to 256 px",
        ours.rate,
        peer.rate,
        unit=ours.unit,
        at_least=AT_LEAST,
        peer_named=named,
        num_pairs=num_pairs,
    )
    speed |= {"pictures_per_s": ours.wall_rate(), "peer_pictures_per_s": peer.wall_rate()}
    memory = verdict(
        "generation, memory",
        list(zip(ours.pictures_per_gib(), peer.pictures_per_gib(), strict=True)),
        unit="pictures/GiB",
        at_least=AT_LEAST_MEMORY,
        peer_named=named,
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
    return {"run": str(run), "exported": exported_of(str(run), str(exported))}


def exported_of(run: str, folder: str) -> str:
    """The folder, once it holds a run's stack for diffusers."""
    export(read_stack(RunStages.read(run)), Sampling(), folder, DIFFUSERS)
    return folder


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
