"""An evaluation's numbers as tables and confusion matrices that people can read."""

import re
from collections.abc import Mapping
from typing import Any

from pipeline.evaluation.judges import Confusion
from pipeline.evaluation.metrics import Estimate
from pipeline.evaluation.report_data import Headline, NamedConfusion, Score, ScoreTable

_ABLATIONS = {
    "decoder": ("decoder, before upsampling", "the picture that the upsamplers were given"),
    "caption_hidden": ("caption hidden from the decoder", "what the prior alone carries"),
    "mean_z_img": ("mean z_img, caption shown", "what the caption gives without the prior"),
    "mean_z_img_caption_hidden": ("mean z_img, caption hidden", "nothing is left: chance"),
}
_SUFFIX = "_accuracy"
Groups = Mapping[str, Mapping[str, Estimate]]


def headlines(groups: Groups, content: Mapping[str, Any]) -> list[Headline]:
    """The accuracy of the final pictures per attribute, where it was measured."""
    found = groups.get("accuracy", {})
    named = ((attribute, found.get(f"{attribute}{_SUFFIX}")) for attribute in _chances(content))
    return [
        Headline(f"{attribute} right".capitalize(), percent(estimate.value), interval(estimate))
        for attribute, estimate in named
        if estimate is not None
    ]


def percent(value: float) -> str:
    """A share as percent with one decimal."""
    return f"{100 * value:.1f} %"


def interval(found: Estimate) -> str:
    """A share's interval and sample size."""
    return f"{100 * found.low95:.1f} – {100 * found.high95:.1f} %, n = {found.num}"


def score_tables(groups: Groups, content: Mapping[str, Any]) -> list[ScoreTable]:
    """Tables in reading order; a table without rows is left out."""
    chance = _chances(content)
    tables = [
        ScoreTable(
            "Prompts and pictures",
            "Final pictures, one per prompt, none chosen; read by a judge that does not see the "
            "prompt. The dashed mark is chance.",
            _plain(groups.get("accuracy", {}), chance),
        ),
        ScoreTable(
            "What each part contributes",
            "The same prompts and noise at the decoder's resolution, with one condition changed.",
            _ablations(groups.get("accuracy", {}), chance),
        ),
        ScoreTable(
            "z_img of another prompt",
            "Caption of one prompt, z_img of another: which of the two does the picture follow? "
            "Only pairs that differ in the attribute.",
            named_scores(groups.get("shuffled", {}), is_share=True),
        ),
        ScoreTable(
            "Upsamplers",
            "Accuracy lost between decoder and end on the same pictures; PSNR on held-out "
            "pictures against bicubic of the same degraded input.",
            _upsamplers(groups.get("upsamplers", {})),
        ),
        ScoreTable(
            "CLIP",
            "Retrieval among held-out pictures with distinct captions. Over chance: the worse "
            "direction's recall at 1 as a multiple of what guessing gives.",
            _clip(groups.get("clip", {})),
        ),
        ScoreTable(
            "Embeddings of the pictures",
            "By the run's own CLIP, which also guides the generator: good for comparing runs with "
            "the same CLIP, not for comparing with other work.",
            named_scores(groups.get("pictures", {}), is_share=False),
        ),
    ]
    return [table for table in tables if table.scores]


def confusion_tables(content: Mapping[str, Any]) -> list[NamedConfusion]:
    """Matrices of the generated pictures, then of the judge on pictures of known content."""
    titles = {
        "generated": "Generated pictures: {} asked and read",
        "judge": "The judge on known pictures: {}",
    }
    return [
        NamedConfusion(title.format(attribute), _confusion(matrix))
        for name, title in titles.items()
        for attribute, matrix in content.get("confusions", {}).get(name, {}).items()
    ]


def _confusion(matrix: Mapping[str, Any]) -> Confusion:
    return Confusion(
        attribute=matrix["attribute"],
        truths=tuple(matrix["truths"]),
        readings=tuple(matrix["readings"]),
        counts=tuple(tuple(row) for row in matrix["counts"]),
    )


def _chances(content: Mapping[str, Any]) -> dict[str, float]:
    """What guessing gives per attribute: one over the number of values that were asked."""
    matrices = content.get("confusions", {}).get("generated", {})
    return {a: 1 / len(matrix["truths"]) for a, matrix in matrices.items() if matrix["truths"]}


def _plain(found: Mapping[str, Estimate], chance: Mapping[str, float]) -> list[Score]:
    return [
        Score(attribute, found[f"{attribute}{_SUFFIX}"], chance=chance.get(attribute))
        for attribute in chance
        if f"{attribute}{_SUFFIX}" in found
    ]


def _ablations(found: Mapping[str, Estimate], chance: Mapping[str, float]) -> list[Score]:
    return [
        Score(f"{label}: {attribute}", found[name], note, chance=chance.get(attribute))
        for kind, (label, note) in _ABLATIONS.items()
        for attribute in chance
        if (name := f"{kind}_{attribute}{_SUFFIX}") in found
    ]


def _upsamplers(found: Mapping[str, Estimate]) -> list[Score]:
    return [
        Score(words(name), estimate, is_share=name.endswith("lost_by_upsamplers"))
        for name, estimate in found.items()
    ]


def _clip(found: Mapping[str, Estimate]) -> list[Score]:
    scores = []
    for name, estimate in found.items():
        is_share = "recall" in name
        chance = None
        if is_share:
            k, num = (int(part) for part in name.split("_at_")[1].split("_of_"))
            chance = k / num
        scores.append(Score(words(name), estimate, is_share=is_share, chance=chance))
    return scores


def named_scores(found: Mapping[str, Estimate], *, is_share: bool = False) -> list[Score]:
    """A row per estimate, its name in words."""
    return [Score(words(name), estimate, is_share=is_share) for name, estimate in found.items()]


def words(name: str) -> str:
    """A metric's name as people write it."""
    name = re.sub(r"^upsampler_(\d+)_(\d+)_", r"upsampler \1 → \2 px: ", name)
    told = name.replace("z_img", "zimg").replace("z_txt", "ztxt").replace("_", " ")
    told = told.replace("zimg", "z_img").replace("ztxt", "z_txt")
    for plain, proper in (("clip", "CLIP"), ("psnr db", "PSNR (dB)"), ("frechet", "Fréchet")):
        told = told.replace(plain, proper)
    return told
