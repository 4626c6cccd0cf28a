"""Generated pictures that a training picture is as good as: nearest neighbours, flagged, shown.

Dimension names: ``picture``. By the run's own CLIP: near means alike to this CLIP, not equal
pixels; what it flags is for people to look at. Held-out pictures, which no model has seen, say how
near a new picture is anyway.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from pipeline.evaluation.generated import FINAL, FinalEmbeddings, read_generated
from pipeline.evaluation.metrics import Estimate, bootstrap_mean, proportion
from pipeline.evaluation.protocols import Estimates
from pipeline.evaluation.sheets import Column, sheet
from pipeline.results import Result
from pipeline.shards.curated import CuratedDataset, decode

Nearest = Sequence[tuple[float, int, str]]
"""Cosine, shard and key of training pictures, best first."""
MADE, HELD_OUT = "generated", "held_out"
NUM_SHOWN, SHOWN_PX, ROW_CHARS = 16, 144, 90


def merged(parts: Sequence[Mapping[str, Any]], num_nearest: int) -> list[Nearest]:
    """The nearest per picture over all shards (results of ``NearestInShard``), best first."""
    rows = zip(*(part["nearest"] for part in parts), strict=True)
    return [
        sorted(((float(c), int(s), str(k)) for each in row for c, s, k in each), reverse=True)[
            :num_nearest
        ]
        for row in rows
    ]


def estimates(nearest: Mapping[str, Sequence[Nearest]], above_share: float, seed: int) -> Estimates:
    """Cosine to the nearest training picture of both sets, and the share that is flagged.

    Args:
        nearest: Of ``MADE`` and ``HELD_OUT``: neighbours per picture.
        above_share: Share of the held-out pictures whose cosines a flagged one exceeds.
        seed: Seed of the resampling.
    """
    found: Estimates = {}
    closest = {name: np.array([each[0][0] for each in rows]) for name, rows in nearest.items()}
    for name, cosines in closest.items():
        found[f"{name}_nearest_training_cosine_{len(cosines)}"] = bootstrap_mean(cosines, seed)
    bound, num = float(np.quantile(closest[HELD_OUT], above_share)), len(closest[MADE])
    found["flagged_above_cosine"] = Estimate(bound, bound, bound, len(closest[HELD_OUT]))
    found[f"flagged_{num}"] = proportion(int((closest[MADE] > bound).sum()), num)
    return found


def shown(
    generated: Result, made: FinalEmbeddings, nearest: Sequence[Nearest], curated: CuratedDataset
) -> bytes:
    """The generated pictures that come closest to training pictures, beside these, as PNG."""
    order = sorted(range(len(nearest)), key=lambda place: -nearest[place][0][0])[:NUM_SHOWN]
    wanted = {made.keys[place] for place in order}
    pictures = {
        found.key: found
        for entry in generated.content["shards"]
        for found in read_generated(generated, entry)
        if found.kind == FINAL and found.key in wanted
    }
    num = min(len(nearest[place]) for place in order)
    ours = [pictures[made.keys[place]] for place in order]
    columns = [Column("generated", np.stack([_tile(found.image()) for found in ours]))]
    for rank in range(num):
        rows = [_training_picture(curated, *nearest[place][rank][1:]) for place in order]
        columns.append(Column(f"training picture {rank + 1}", np.stack(rows)))
    names = [
        textwrap.shorten(f"{nearest[p][0][0]:.4f}  {o.prompt}", ROW_CHARS, placeholder=" …")
        for p, o in zip(order, ours, strict=True)
    ]
    return sheet(columns, len(order), SHOWN_PX, names)


def _training_picture(curated: CuratedDataset, shard: int, key: str) -> np.ndarray:
    view_px = next((side for side in curated.views_px if side >= SHOWN_PX), None)
    return _tile(Image.fromarray(decode(curated.pictures(shard, view_px, {key})[key])))


def _tile(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((SHOWN_PX, SHOWN_PX), Image.Resampling.BICUBIC))
