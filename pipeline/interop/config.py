"""Which models a run takes from others; imports nothing heavy."""

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from pipeline.config import StrictModel

UPSAMPLER = re.compile(r"upsampler_(\d+)_(\d+)")
Format = Literal["diffusers", "karlo"]
"""``diffusers``: a folder of its unCLIP pipelines, Karlo's or one that ``jobs.export`` wrote;
``karlo``: the checkpoints that Karlo published."""


class ImportedModel(StrictModel):
    """One of them, as the configuration of its stage."""

    format: Format
    model: str


class ImportedConfig(StrictModel):
    """Models that are there already, as stages of the run; nothing is downloaded."""

    format: Format
    path: str = Field(min_length=1)
    """Local folder; the files' bytes, not their place, are what counts."""
    models: tuple[str, ...] = Field(min_length=1)
    """Names of the stages that it brings: ``clip``, ``prior``, ``decoder``,
    ``upsampler_<from>_<to>``. Karlo's checkpoints hold no CLIP: section ``open_clip`` brings it."""

    @model_validator(mode="after")
    def _models_are_known(self) -> "ImportedConfig":
        known = ("prior", "decoder", "clip")[: 2 if self.format == "karlo" else 3]
        for name in self.models:
            if name not in known and not UPSAMPLER.fullmatch(name):
                raise ValueError(
                    f"models: format {self.format} brings {', '.join(known)} and "
                    f"upsampler_<from>_<to>, not {name!r}"
                )
        if len(set(self.models)) < len(self.models):
            raise ValueError(f"models={self.models} names a model twice")
        return self

    def upsamplers(self) -> Sequence[str]:
        """Those that are upsamplers."""
        return [name for name in self.models if UPSAMPLER.fullmatch(name)]

    def only(self, model: str) -> ImportedModel:
        """The configuration of one model's stage."""
        return ImportedModel(format=self.format, model=model)


def sides(name: str) -> tuple[int, int]:
    """Sides of the small and the large pictures of an upsampler's stage, pixels."""
    match = UPSAMPLER.fullmatch(name)
    assert match is not None
    return int(match[1]), int(match[2])
