"""Our default sampling against that of diffusers' ``UnCLIPPipeline``: pictures of a trained run.

Both draw one picture for each held-out caption, with the same weights (exported for the peer) and
the run's guidance; the peer takes its own default steps, ours is ``generation.by_default``. How far
either lies from the held-out pictures is told by Fréchet distances, features by the run's CLIP, and
the 95 % interval of their difference by resampling in pairs. On a CPU there are few pictures, and
no verdict.

``python -m tests.benchmarks.sampling_quality --run runs/demo``; ``--device cuda`` draws 2,000.
"""

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.evaluation.distances import frechet
from pipeline.evaluation.drawn import held_out_pictures
from pipeline.evaluation.features import OWN_CLIP, Extractor, FeatureSource
from pipeline.evaluation.held_out import HeldOutSource
from pipeline.generation.run_stages import read_sampling
from pipeline.generation.weights import load_clip
from pipeline.results import read_result, stage_places
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.embedding_files import EmbeddedDataset
from pipeline.shards.keep_list import keep_list
from tests.benchmarks.generation import PEERS_STEPS, by_default, exported_of, peer_named
from tests.benchmarks.generation_side import SIDES

MOST_WORSE = 0.02
"""Of the peer's distance: where the upper bound of ours above it may lie."""
NUM_PICTURES = {"cpu": 256, "cuda": 2000}
BATCH = 32


def main() -> int:
    """Draw on both sides and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default="runs/demo", help="output folder of a finished run")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--profile", default="generative")
    arguments = parser.parse_args()
    run, device = arguments.run, arguments.device
    source = _held_out(run, arguments.profile, NUM_PICTURES[device])
    guidance = _guidance(run)
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "run": run,
            "exported": exported_of(run, str(Path(folder) / "exported")),
            "sampling": by_default(**guidance).model_dump(mode="json"),
            "device": device,
            "prompts": source.pairs().captions,
            "batch": BATCH,
            **PEERS_STEPS,
            **guidance,
        }
        made = {name: _drawn(name, settings) for name in SIDES}
    real = held_out_pictures(source, made["ours"].shape[1])
    clip = read_result(stage_places(run)["clip"])
    load = partial(load_clip, clip.uri, torch.device("cpu"))
    extractor = Extractor(FeatureSource(OWN_CLIP, load), BATCH)
    rows = {name: extractor.pictures(pictures) for name, pictures in {**made, "real": real}.items()}
    ours, peer = (frechet(rows[name], rows["real"], seed=1) for name in ("ours", "diffusers"))
    above = ours.minus(peer)
    found = {
        "benchmark": "quality of the default sampling",
        "ours": ours.value,
        "peer": peer.value,
        "unit": f"frechet_{OWN_CLIP}_{len(rows['ours'])}_to_{len(real)}",
        "share_above_peer": above.value / peer.value,
        "low95": above.low95 / peer.value,
        "high95": above.high95 / peer.value,
        "at_most": MOST_WORSE,
        "ok": above.high95 / peer.value <= MOST_WORSE,
        "peer_is": peer_named(settings),
    }
    print(json.dumps(found))
    if device == "cpu":
        print(f"{len(real)} pictures on a CPU: an interval, no verdict", file=sys.stderr)
        return 0
    return 0 if found["ok"] else 1


def _held_out(run: str, profile: str, num: int) -> HeldOutSource:
    places = stage_places(run)
    curate, embed, select = (read_result(places[name]) for name in ("curate", "embed", "select"))
    curated = CuratedDataset(curate)
    return HeldOutSource(curated, EmbeddedDataset(embed, curated), keep_list(select, profile), num)


def _guidance(run: str) -> dict[str, float]:
    sampling = read_sampling(run)
    return {
        "prior_scale": sampling.prior.guidance_scale,
        "decoder_scale": sampling.decoder.guidance_scale,
    }


def _drawn(name: str, settings: dict[str, Any]) -> np.ndarray:
    draw = SIDES[name]()(settings, torch.device(settings["device"]))
    return np.stack([np.asarray(picture.convert("RGB")) for picture in draw()])


if __name__ == "__main__":
    sys.exit(main())
