"""Batch generation with two workers against one, on the same prompts and models.

What is counted is pictures over the time from the first partition's start to the last one's end,
so that neither Ray nor the loading of models is in it. Workers have one thread each; two of them,
Ray itself and this process need more than two cores, without which there is no verdict.

``python -m tests.benchmarks.batch_generation``; ``--device cuda`` gives each worker a GPU.
"""

import argparse
import os
import sys
import tempfile
import uuid
from pathlib import Path

import ray

from pipeline.generation.batch import generate
from pipeline.generation.config import GenerateConfig
from pipeline.progress import Progress
from pipeline.results import Result, read_result, stage_places
from pipeline.runtime import RayConfig, prepare_environment, ray_session
from tests.benchmarks.generation import FEW_STEPS, PROMPTS, SIZES, make_stack
from tests.benchmarks.paired import compare, finish

AT_LEAST, NUM_PARTITIONS, BATCH = 1.8, 8, 2


def main() -> int:
    """Compare two workers with one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    gpus = 1.0 if arguments.device == "cuda" else 0.0
    prepare_environment()
    with tempfile.TemporaryDirectory() as name, ray_session(RayConfig(num_cpus=4)):
        folder = Path(name)
        run = make_stack(folder, SIZES[arguments.device])["run"]
        inputs = {
            stage: result
            for stage, place in stage_places(run).items()
            if (result := read_result(place)) is not None
        }
        found = compare(
            "batch generation, 2 workers",
            lambda: _rate(inputs, folder, 2, gpus),
            lambda: _rate(inputs, folder, 1, gpus),
            unit="pictures/s",
            at_least=AT_LEAST,
            peer_named={
                "command": "the same with one worker",
                "version": f"ray {ray.__version__}",
                "cores": os.cpu_count(),
                "input": f"{NUM_PARTITIONS} partitions of {BATCH} pictures, 256 px",
            },
            num_pairs=arguments.pairs,
        )
    if arguments.device == "cpu" and (os.cpu_count() or 1) <= 2:
        print("two cores: they are shared with Ray and this process; no verdict", file=sys.stderr)
    return finish([found])


def _rate(inputs: dict[str, Result], folder: Path, num_actors: int, gpus: float) -> float:
    config = GenerateConfig.model_validate(
        {
            "prompts": {"type": "inline", "texts": PROMPTS},
            "num_pictures": NUM_PARTITIONS * BATCH,
            "seed": 1,
            "prior": {"num_steps": FEW_STEPS["prior_steps"], "num_candidates": 1},
            "decoder": {"num_steps": FEW_STEPS["decoder_steps"]},
            "upsamplers": [{"num_steps": FEW_STEPS["upsampler_steps"]}],
            "ablations": {"num_pictures": 0},
            "pictures_per_shard": BATCH,
            "batch_size": BATCH,
            "execution": {"num_actors": num_actors, "gpus_per_actor": gpus},
        }
    )
    made = generate(config, inputs, [], str(folder / uuid.uuid4().hex), Progress())
    started, ended = min(s for s, _ in made.work), max(e for _, e in made.work)
    return config.num_pictures / (ended - started)


if __name__ == "__main__":
    sys.exit(main())
