"""What a run of the small web is asked for and judged by: held-out captions, and the oracle."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from pipeline.demo.config import SmallWebConfig
from pipeline.errors import ConfigError
from pipeline.evaluation.config import EvaluateConfig
from pipeline.generation.config import GenerateConfig
from pipeline.interop.config import sides
from pipeline.run_file import RunFile
from pipeline.training.config import DecoderTaskConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from pipeline.evaluation.judges import Judge, TestedJudge
    from pipeline.evaluation.manipulation_check import Edit
    from pipeline.generation.prompts import Prompt

NUM_KNOWN = 512
"""Renderings of known content by which the oracle itself is judged; damaged ones come on top."""


def held_out(config: GenerateConfig, run: RunFile) -> "list[Prompt]":
    """The small web's held-out prompts; none where the run has no small web."""
    return prompts_and_judge(config.num_pictures, config.seed, run)[0]


def prompts_and_judge(num: int, seed: int, run: RunFile) -> "tuple[list[Prompt], Judge | None]":
    """Held-out prompts with their truth, and who reads pictures; neither without a small web."""
    from pipeline.demo.captions import held_out_prompts
    from pipeline.generation.prompts import Prompt

    if not isinstance(run.candidates, SmallWebConfig):
        return [], None
    found = held_out_prompts(num, seed)
    return [Prompt(text, truth._asdict()) for text, truth in found], _read_shape


def edits(captions: "Sequence[str]", seed: int, run: RunFile) -> "list[tuple[Edit, ...]]":
    """Of each caption of one shape: another colour, another background; drawn from the seed.

    Args:
        captions: Of held-out pictures.
        seed: Seed of the draws.
        run: The run; nothing can be told of others than the small web's.
    """
    from pipeline.demo.captions import named, reworded
    from pipeline.demo.shapes import BACKGROUNDS, COLOURS
    from pipeline.draws import hash64
    from pipeline.evaluation.manipulation_check import Edit

    if not isinstance(run.candidates, SmallWebConfig):
        return [()] * len(captions)
    rows = []
    for number, text in enumerate(captions):
        found = []
        colours, kinds, backgrounds = named(text)
        single = len(colours) == len(kinds) == len(backgrounds) == 1
        attributes = {"colour": (colours, COLOURS), "background": (backgrounds, BACKGROUNDS)}
        for attribute, (words, values) in attributes.items() if single else ():
            (old,) = words
            others = [value for value in values if value != old]
            new = others[hash64(seed, "edits", attribute, number) % len(others)]
            found.append(Edit(attribute, old, new, text, reworded(text, old, new)))
        rows.append(tuple(found))
    return rows


def judge(config: EvaluateConfig, run: RunFile) -> "TestedJudge | None":
    """The oracle, with the renderings that show how far it can be trusted."""
    from pipeline.demo import known
    from pipeline.demo.shapes import Combination
    from pipeline.evaluation.judges import NONE_LABEL, KnownPicture, TestedJudge

    if not isinstance(run.candidates, SmallWebConfig):
        return None
    side, seed = _final_side(run), config.seed
    pictures = []
    for index in range(NUM_KNOWN):
        truth, picture = known.clean(index, side, seed)
        pictures.append(KnownPicture(picture, truth._asdict()))
    nothing = dict.fromkeys(Combination._fields, NONE_LABEL)
    for index in range(NUM_KNOWN // 4):
        pictures.append(KnownPicture(known.damaged(index, side, seed)[1], nothing))
    return TestedJudge(_read_shape, pictures)


def _final_side(run: RunFile) -> int:
    names = run.upsampler_names()
    if names:
        return sides(names[-1])[1]
    task = None if run.decoder is None else run.decoder.task
    if not isinstance(task, DecoderTaskConfig):
        raise ConfigError(
            "section evaluate: the oracle needs to know the side of the pictures that "
            "an imported decoder makes; import an upsampler too"
        )
    return task.model.image_px


def _read_shape(picture: "Image.Image") -> dict[str, str | None]:
    from pipeline.demo.oracle import read

    return asdict(read(picture))
