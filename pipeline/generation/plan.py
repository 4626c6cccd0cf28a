"""What a generation makes: final pictures and ablations, cut into partitions.

An ablation keeps a picture's noise and changes one condition, so that pictures of the same number
differ by that condition alone.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline import draws
from pipeline.generation.prompts import Prompt

FINAL = "final"
"""Pictures after all upsamplers."""
DECODER = "decoder"
"""The decoder's own picture of the same number, before the upsamplers."""
CAPTION_HIDDEN = "caption_hidden"
"""The decoder sees z_img from the prior and the empty caption."""
Z_IMG_SHUFFLED = "z_img_shuffled"
"""The decoder sees the caption of one prompt and the z_img of another."""
MEAN_Z_IMG = "mean_z_img"
"""The mean z_img of the training data stands in for the prior's; the caption is seen."""
MEAN_Z_IMG_CAPTION_HIDDEN = "mean_z_img_caption_hidden"
"""The mean z_img and the empty caption: nothing of the prompt is left."""
ABLATIONS = (CAPTION_HIDDEN, Z_IMG_SHUFFLED, MEAN_Z_IMG, MEAN_Z_IMG_CAPTION_HIDDEN)
_HIDDEN = (CAPTION_HIDDEN, MEAN_Z_IMG_CAPTION_HIDDEN)
_MEAN = (MEAN_Z_IMG, MEAN_Z_IMG_CAPTION_HIDDEN)


@dataclass(frozen=True)
class PictureJob:
    """One picture to make."""

    kind: str
    index: int
    """Number of the picture; keys its noise."""
    prompt: str
    truth: dict[str, str | None] | None
    """What a right picture of the prompt shows."""
    caption: str
    """What the decoder reads: the prompt, or empty."""
    z_img_index: int
    """Number of the picture whose z_img is used; its own, except where shuffled."""
    z_img_prompt: str | None
    """Prompt that the prior reads; None where the mean embedding is used."""
    z_img_truth: dict[str, str | None] | None
    """What a right picture of ``z_img_prompt`` shows."""

    def as_json(self) -> dict[str, Any]:
        """The job as JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Partition:
    """The pictures of one output shard."""

    number: int
    jobs: tuple[PictureJob, ...]


def plan(
    prompts: Sequence[Prompt], num_ablation_pictures: int, pictures_per_shard: int, seed: int
) -> list[Partition]:
    """All pictures in order, final ones first; a partition holds one kind.

    Args:
        prompts: One per final picture.
        num_ablation_pictures: Pictures per ablation, of the first prompts; at most one per prompt.
        pictures_per_shard: Pictures per partition.
        seed: Seeds which z_img goes to which prompt.
    """
    groups = [[_own(FINAL, index, prompt) for index, prompt in enumerate(prompts)]]
    few = prompts[:num_ablation_pictures]
    partners = shuffled_partners(len(few), seed)
    for kind in ABLATIONS if few else ():
        if kind != Z_IMG_SHUFFLED:
            groups.append([_own(kind, index, prompt) for index, prompt in enumerate(few)])
        elif len(few) > 1:
            groups.append([_shuffled(index, partners[index], few) for index in range(len(few))])
    cut = [
        tuple(jobs[start : start + pictures_per_shard])
        for jobs in groups
        for start in range(0, len(jobs), pictures_per_shard)
    ]
    return [Partition(number, jobs) for number, jobs in enumerate(cut)]


def shuffled_partners(num: int, seed: int) -> list[int]:
    """For each picture another one, each used once: neighbours on a random ring."""
    ring = draws.generator(seed, "z_img_shuffled", 0).permutation(num).tolist()
    partners = [0] * num
    for place, index in enumerate(ring):
        partners[index] = ring[(place + 1) % num]
    return partners


def _own(kind: str, index: int, prompt: Prompt) -> PictureJob:
    truth = None if prompt.truth is None else dict(prompt.truth)
    uses_prior = kind not in _MEAN
    return PictureJob(
        kind=kind,
        index=index,
        prompt=prompt.text,
        truth=truth,
        caption="" if kind in _HIDDEN else prompt.text,
        z_img_index=index,
        z_img_prompt=prompt.text if uses_prior else None,
        z_img_truth=truth if uses_prior else None,
    )


def _shuffled(index: int, partner: int, prompts: Sequence[Prompt]) -> PictureJob:
    own, other = prompts[index], prompts[partner]
    return PictureJob(
        kind=Z_IMG_SHUFFLED,
        index=index,
        prompt=own.text,
        truth=None if own.truth is None else dict(own.truth),
        caption=own.text,
        z_img_index=partner,
        z_img_prompt=other.text,
        z_img_truth=None if other.truth is None else dict(other.truth),
    )
