"""Which question a number about drawn pictures answers: results of ``drawn`` → named estimates.

Names are flat and without dots, so that gates can name them; features and sample sizes stand in
them. Dimension names: ``picture``, ``dim``.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pipeline.evaluation import distances
from pipeline.evaluation.distances import Resampled
from pipeline.evaluation.drawn import PICTURES, Rows, read_rows
from pipeline.evaluation.metrics import Estimate, bootstrap_mean, proportion
from pipeline.evaluation.protocols import Estimates
from pipeline.evaluation.sheets import Column, sheet

Distance = Callable[..., Resampled]
NUM_SHOWN, SHOWN_PX, PX_PER_CHAR = 16, 112, 6


@dataclass(frozen=True)
class Compared:
    """Ways to draw, and the held-out pictures that they are compared with."""

    ways: Mapping[str, Rows]
    """Result of ``DrawAndRead`` per way, all of the same prompts."""
    real: Rows
    """Result of ``ReadHeldOut``."""
    seed: int
    num_resamples: int

    def judged(self) -> Estimates:
        """Share of pictures that show what was asked, per way and attribute (Wilson)."""
        return {
            f"{way}_{attribute}_right": proportion(sum(right), len(right))
            for way, found in self.ways.items()
            for attribute, right in found["right"].items()
        }

    def seconds(self) -> Estimates:
        """Wall time per picture, models loaded, on the machine and beside what ran there."""
        found = {way: float(rows["seconds_per_picture"]) for way, rows in self.ways.items()}
        num = self.real["num"]
        return {f"{way}_seconds_per_picture": Estimate(s, s, s, num) for way, s in found.items()}

    def clip_scores(self, baseline: str | None = None) -> Estimates:
        """CLIP score per way and CLIP; above one way, picture by picture."""
        found: Estimates = {}
        for way, rows in self.ways.items():
            for clip, scores in rows["clip_scores"].items():
                name = f"{way}_clip_score_{clip}"
                found[f"{name}_{len(scores)}"] = bootstrap_mean(np.array(scores), self.seed)
                if baseline not in (None, way):
                    less = np.array(self.ways[baseline]["clip_scores"][clip])
                    above = bootstrap_mean(np.array(scores) - less, self.seed)
                    found[f"{name}_above_{baseline}"] = above
        return found

    def distances(self, baseline: str | None = None) -> dict[str, Estimates]:
        """A group per distance and network; where a baseline is named, how far each lies below."""
        real = read_rows(self.real["file_uri"])
        groups: dict[str, Estimates] = {}
        for network in [name for name in real if name != PICTURES]:
            made = {way: read_rows(rows["file_uri"])[network] for way, rows in self.ways.items()}
            for kind, distance in self._kinds(network).items():
                found = {
                    way: distance(rows, real[network], self.seed) for way, rows in made.items()
                }
                groups[f"{kind}_{network}"] = _named(kind, network, made, real[network], found)
                if baseline is not None:
                    below = {
                        f"{way}_{kind}_{network}_below_{baseline}": found[baseline].minus(each)
                        for way, each in found.items()
                        if way != baseline
                    }
                    groups[f"{kind}_{network}"] |= below
            groups[f"precision_and_recall_{network}"] = _shares(network, made, real[network])
        return groups

    def _kinds(self, network: str) -> dict[str, Distance]:
        kinds: dict[str, Distance] = {
            "frechet": partial(distances.frechet, num_resamples=self.num_resamples),
            "kernel_distance": distances.kernel_distance,
        }
        if any(network in rows["clip_scores"] for rows in self.ways.values()):
            kinds["cmmd"] = distances.cmmd
        return kinds

    def sheet(self) -> bytes:
        """The first pictures, a column per way, as PNG."""
        (first, *_) = self.ways.values()
        most = max(12, len(self.ways) * SHOWN_PX // PX_PER_CHAR)
        names = [textwrap.shorten(text, most, placeholder=" …") for text in first["prompts"]]
        columns = [
            Column(way.replace("_", " "), read_rows(rows["file_uri"])[PICTURES])
            for way, rows in self.ways.items()
        ]
        return sheet(columns, NUM_SHOWN, SHOWN_PX, names)


def _sizes(made: np.ndarray, real: np.ndarray) -> str:
    return f"{len(made)}_to_{len(real)}"


def _named(
    kind: str,
    network: str,
    made: Mapping[str, np.ndarray],
    real: np.ndarray,
    found: Mapping[str, Resampled],
) -> Estimates:
    return {
        f"{way}_{kind}_{network}_{_sizes(made[way], real)}": each.estimate()
        for way, each in found.items()
    }


def _shares(network: str, made: Mapping[str, np.ndarray], real: np.ndarray) -> Estimates:
    estimates: Estimates = {}
    for way, rows in made.items():
        found = distances.precision_recall(rows, real)
        sizes = _sizes(rows, real)
        estimates[f"{way}_precision_{network}_{sizes}"] = found.precision
        estimates[f"{way}_recall_{network}_{sizes}"] = found.recall
    return estimates


def curves(
    title: str, scales: Sequence[float], series: Mapping[str, Sequence[Estimate]]
) -> dict[str, Any]:
    """Estimates over guidance scales, as JSON of ``report_data.Lines``."""
    return {
        "title": title,
        "x_label": "guidance scale of the decoder",
        "x": list(scales),
        "series": {name: [each.as_dict() for each in found] for name, found in series.items()},
    }
