"""Which question a number answers: readings and embeddings → named estimates.

Names are stable and flat, so that gates can name them; sample sizes stand in each estimate, and
in the name where the value itself depends on them. Dimension names: ``picture``, ``dim``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from pipeline.evaluation import metrics
from pipeline.evaluation.generated import DECODER, FINAL, FinalEmbeddings
from pipeline.evaluation.judges import Confusion, confusion
from pipeline.evaluation.metrics import Estimate, proportion

SHUFFLED = "z_img_shuffled"
Estimates = dict[str, Estimate]
Attributes = Mapping[str, str | None]


@dataclass(frozen=True)
class Read:
    """A generated picture as a judge read it."""

    kind: str
    index: int
    truth: Attributes | None
    z_img_truth: Attributes | None
    reading: Attributes

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Read":
        """From a row that ``tasks.JudgeShard`` wrote."""
        return cls(row["kind"], row["index"], row["truth"], row["z_img_truth"], row["reading"])

    def is_right(self, attribute: str) -> bool:
        """Whether the attribute was read as the prompt says."""
        return self.truth is not None and self.reading.get(attribute) == self.truth.get(attribute)


def attributes_of(reads: Sequence[Read]) -> list[str]:
    """Attributes that some prompt fixes, sorted."""
    return sorted({a for r in reads for a, value in (r.truth or {}).items() if value is not None})


def accuracy(reads: Sequence[Read]) -> Estimates:
    """Share of pictures that show what was asked, per kind and attribute.

    ``colour_accuracy`` is of final pictures; ``decoder_colour_accuracy`` and
    ``caption_hidden_colour_accuracy`` are of the decoder's pictures. The mean-z_img kinds tell what
    the caption gives without the prior; with the caption hidden they should be at chance.
    """
    found: Estimates = {}
    for kind in dict.fromkeys(read.kind for read in reads):
        if kind == SHUFFLED:
            continue
        prefix = "" if kind == FINAL else f"{kind}_"
        for attribute in attributes_of(reads):
            asked = [r for r in reads if r.kind == kind and (r.truth or {}).get(attribute)]
            if asked:
                right = sum(r.is_right(attribute) for r in asked)
                found[f"{prefix}{attribute}_accuracy"] = proportion(right, len(asked))
    return found


def shuffled(reads: Sequence[Read]) -> Estimates:
    """With z_img of another prompt: does the picture follow z_img or the caption?

    Only pictures count whose two prompts differ in the attribute. The shares need not add up to 1:
    a picture may follow neither.
    """
    found: Estimates = {}
    for attribute in attributes_of(reads):
        pairs = [
            (r.reading.get(attribute), r.z_img_truth[attribute], r.truth[attribute])
            for r in reads
            if r.kind == SHUFFLED and r.truth and r.z_img_truth
            if r.truth.get(attribute) and r.z_img_truth.get(attribute)
            if r.truth[attribute] != r.z_img_truth[attribute]
        ]
        if pairs:
            by_z_img = sum(reading == of_z_img for reading, of_z_img, _ in pairs)
            by_caption = sum(reading == of_caption for reading, _, of_caption in pairs)
            name = f"{SHUFFLED}_{attribute}_follows"
            found[f"{name}_z_img"] = proportion(by_z_img, len(pairs))
            found[f"{name}_caption"] = proportion(by_caption, len(pairs))
    return found


def lost_by_upsamplers(reads: Sequence[Read]) -> Estimates:
    """Decoder accuracy minus final accuracy on the same pictures; normal interval of the pairs.

    An attribute that the judge cannot read at the decoder's size looks gained, not lost.
    """
    found: Estimates = {}
    decoded = {read.index: read for read in reads if read.kind == DECODER}
    final = [read for read in reads if read.kind == FINAL and read.index in decoded]
    for attribute in attributes_of(final):
        changes = [
            float(decoded[read.index].is_right(attribute)) - float(read.is_right(attribute))
            for read in final
            if (read.truth or {}).get(attribute)
        ]
        if len(changes) > 1:
            found[f"{attribute}_lost_by_upsamplers"] = metrics.normal_mean(np.array(changes))
    return found


def confusions(reads: Sequence[Read], kind: str = FINAL) -> dict[str, Confusion]:
    """What was asked against what was read, per attribute, of one kind of pictures."""
    chosen = [read for read in reads if read.kind == kind]
    found = {}
    for attribute in attributes_of(chosen):
        pairs = [
            (truth, read.reading.get(attribute))
            for read in chosen
            if (truth := (read.truth or {}).get(attribute)) is not None
        ]
        found[attribute] = confusion(attribute, pairs)
    return found


def upsampling(results: Sequence[Mapping[str, Any]], seed: int) -> Estimates:
    """PSNR of each upsampler, of bicubic, and the gain of the first over the second (paired)."""
    by_step: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        by_step.setdefault(f"{result['low_px']}_{result['high_px']}", []).append(result)
    found: Estimates = {}
    for step, parts in by_step.items():
        ours = np.concatenate([np.array(part["psnr"]) for part in parts])
        bicubic = np.concatenate([np.array(part["psnr_bicubic"]) for part in parts])
        if len(ours) < 2:
            continue
        values: dict[str, Float[np.ndarray, " picture"]] = {
            "psnr_db": ours,
            "psnr_db_of_bicubic": bicubic,
            "psnr_db_over_bicubic": ours - bicubic,
        }
        for name, rows in values.items():
            found[f"upsampler_{step}_{name}"] = metrics.bootstrap_mean(rows, seed)
    return found


def retrieval(
    z_img: Float32[np.ndarray, " picture dim"], z_txt: Float32[np.ndarray, " picture dim"]
) -> Estimates:
    """CLIP's retrieval over a gallery of held-out pictures with distinct captions.

    ``clip_retrieval_over_chance`` is the worse direction's recall at 1 times the gallery's size.
    """
    num = len(z_img)
    found: Estimates = {}
    directions: dict[str, Callable[[], np.ndarray]] = {
        "image_to_text": lambda: metrics.retrieval_ranks(z_img, z_txt),
        "text_to_image": lambda: metrics.retrieval_ranks(z_txt, z_img),
    }
    first: list[Estimate] = []
    for direction, ranks_of in directions.items():
        ranks = ranks_of()
        for k in (1, 5):
            found[f"clip_{direction}_recall_at_{k}_of_{num}"] = metrics.recall_at(ranks, k)
        first.append(metrics.recall_at(ranks, 1))
    worst = min(first, key=lambda estimate: estimate.value)
    found["clip_retrieval_over_chance"] = Estimate(
        worst.value * num, worst.low95 * num, worst.high95 * num, num
    )
    return found


def cosines(made: FinalEmbeddings) -> Estimates:
    """How closely prior and decoder follow what they were given, by the run's own CLIP."""
    if len(made.keys) < 2:
        return {}
    pairs = {
        "prior_cosine_to_caption": (made.z_img, made.z_txt),
        "picture_cosine_to_z_img": (made.z_img_of_picture, made.z_img),
        "picture_cosine_to_caption": (made.z_img_of_picture, made.z_txt),
    }
    found = {
        name: metrics.normal_mean(metrics.paired_cosines(first, second))
        for name, (first, second) in pairs.items()
    }
    scores = metrics.clip_scores(made.z_img_of_picture, made.z_txt)
    return {**found, "clip_score_own_clip": metrics.normal_mean(scores)}


def frechet(
    made: Float32[np.ndarray, " picture dim"], real: Float32[np.ndarray, " other dim"]
) -> Estimates:
    """Fréchet distance of generated to held-out pictures on the run's own CLIP features.

    No interval: the value is biased upwards by the sample size, which its name states.
    """
    if min(len(made), len(real)) < 2:
        return {}
    value = metrics.frechet_distance(metrics.moments([made]), metrics.moments([real]))
    name = f"frechet_distance_own_clip_{len(made)}_to_{len(real)}"
    return {name: Estimate(value, value, value, min(len(made), len(real)))}


def failed_gates(
    found: Mapping[str, Mapping[str, float]],
    gates: Mapping[str, float],
    limits: Mapping[str, float],
) -> list[str]:
    """A line per bound that does not hold; empty where all do.

    Args:
        found: ``value, low95, high95`` per metric.
        gates: Smallest accepted values, by metric or by ``metric.low95``.
        limits: Largest accepted values, named alike.
    """
    lines = []
    for bounds, word, holds in (
        (gates, "at least", lambda value, bound: value >= bound),
        (limits, "at most", lambda value, bound: value <= bound),
    ):
        for name, bound in bounds.items():
            metric, _, part = name.partition(".")
            value = found.get(metric, {}).get(part or "value")
            if value is None:
                lines.append(f"{name} was not measured, must be {word} {bound:g}")
            elif not holds(value, bound):
                lines.append(f"{name}={value:.4f}, must be {word} {bound:g}")
    return lines
