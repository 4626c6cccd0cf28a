"""Do manipulations do what they say? Held-out pictures, manipulated, measured and read.

Dimension names: ``picture``, ``side`` (pixels).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from pipeline import storage
from pipeline.evaluation.judges import Judge, Reading
from pipeline.evaluation.metrics import psnr, sharpness
from pipeline.evaluation.sheets import Column, sheet
from pipeline.generation.config import Sampling
from pipeline.generation.pictures import to_images
from pipeline.generation.run_stages import RunStages
from pipeline.generation.unclip import UnCLIP
from pipeline.manipulation.asked import dimensions_up_to
from pipeline.manipulation.manipulator import Drawn, Latents, Manipulator
from pipeline.manipulation.pictures import read_samples, square
from pipeline.models.pictures import to_bytes
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.embedding_files import EmbeddedDataset

Bytes = UInt8[np.ndarray, " picture side side 3"]
NUM_SHOWN = 8
SHOWN_PX = 96
STEPS_BETWEEN = (0.0, 0.5, 1.0)
OWN_NOISE, OTHER_NOISE = "own noise", "other noise"
"""Variations that start from the picture's x_T, or from another."""


class Edit(NamedTuple):
    """A text difference whose outcome a judge can tell."""

    attribute: str
    old: str
    new: str
    base_text: str
    """The picture's caption."""
    text: str
    """The same with the new value."""


@dataclass(frozen=True)
class Settings:
    """How a check draws."""

    sampling: Sampling
    num_steps: int
    eta: float
    thetas: tuple[float, ...]
    dimensions: tuple[int, ...]
    seed: int
    threads: int


@dataclass(frozen=True)
class ManipulateHeldOut:
    """Every manipulation of some held-out pictures, measured."""

    curated: CuratedDataset
    embedded: EmbeddedDataset
    keys: tuple[str, ...]
    first: int
    """Number of the first picture among all that are measured, which keys its draws."""
    edits: tuple[tuple[Edit, ...], ...]
    """Of each picture; every attribute at most once."""
    stages: RunStages
    settings: Settings
    judge: Judge | None
    shown_uri: str | None
    """Folder for sheets of the first pictures; None for a task that shows none."""

    def __call__(self) -> dict[str, Any]:
        """Rows per picture of ``reconstruction, interpolation, variations, edits, pca``.

        Differences are between pictures of the decoder's size, readings are of final ones.
        """
        torch.set_num_threads(self.settings.threads)
        unclip = UnCLIP.from_stages(self.stages, self.settings.sampling, device="cpu")
        changer = Manipulator(unclip, num_steps=self.settings.num_steps, seed=self.settings.seed)
        given = read_samples(self.curated, self.keys)
        pictures = torch.stack([square(each.image, changer.source_px) for each in given])
        small = _pixels(functional.adaptive_avg_pool2d(pictures, changer.decoder_px))
        latents = changer.encode(pictures, range(self.first, self.first + len(given)))
        again = changer.reconstruction(latents)
        source = [self._read(each) for each in to_images(pictures)]
        variations = self._variations(changer, latents)
        pca = changer.principal_components(latents, self.embedded.pca(), self._dimensions())
        between = _interpolated(changer, latents)
        found = {
            "reconstruction": {"psnr": psnr(_pixels(again), small).tolist()},
            "interpolation": _end_differences(between, _pixels(again)),
            "variations": {
                name: self._varied(changer, latents, each, again, source)
                for name, each in variations.items()
            },
            "edits": self._edited(changer, latents, again),
            "pca": self._components(changer, latents, pca, source),
        }
        first, second = Column("picture", small), Column("reconstruction", _pixels(again))
        self._show("reconstructions and variations", [first, second], variations)
        self._show("interpolations", [], between)
        self._show("principal components", [first], pca)
        return found

    def _dimensions(self) -> tuple[int, ...]:
        most = len(self.embedded.pca()["components"])
        return self.settings.dimensions or dimensions_up_to(most)

    def _variations(self, changer: Manipulator, latents: Latents) -> Drawn:
        eta = self.settings.eta
        own = changer.variations(latents, 1, eta)
        other = changer.variations(latents, 1, eta, fresh=True)
        return {OWN_NOISE: own["variation 1"], OTHER_NOISE: other["variation 1"]}

    def _varied(
        self,
        changer: Manipulator,
        latents: Latents,
        pictures: Tensor,
        again: Tensor,
        source: Sequence[Reading],
    ) -> dict[str, Any]:
        """``psnr`` to the reconstruction; ``kept``: per attribute that the picture shows."""
        readings = self._readings(changer, latents, pictures)
        return {
            "psnr": psnr(_pixels(pictures), _pixels(again)).tolist(),
            "kept": _kept(zip(source, readings, strict=True)),
        }

    def _components(
        self, changer: Manipulator, latents: Latents, drawn: Drawn, source: Sequence[Reading]
    ) -> dict[str, dict[str, Any]]:
        """Per number of dimensions ``sharpness``, ``psnr`` to what the most show, and ``kept``."""
        pictures = {name: _pixels(each) for name, each in drawn.items()}
        *_, most = pictures.values()
        return {
            name: {
                "sharpness": sharpness(each).tolist(),
                "psnr": psnr(each, most).tolist(),
                "kept": _kept(
                    zip(source, self._readings(changer, latents, drawn[name]), strict=True)
                ),
            }
            for name, each in pictures.items()
        }

    def _edited(
        self, changer: Manipulator, latents: Latents, again: Tensor
    ) -> dict[str, dict[str, Any]]:
        """Per attribute and theta ``moved`` and ``others_kept``, where it shows the old value."""
        if self.judge is None:
            return {}
        readings = self._readings(changer, latents, again)
        found: dict[str, dict[str, Any]] = {}
        for attribute in sorted({edit.attribute for each in self.edits for edit in each}):
            rows = [
                (row, edit)
                for row, each in enumerate(self.edits)
                for edit in each
                if edit.attribute == attribute
            ]
            chosen = [row for row, _ in rows]
            edits = [edit for _, edit in rows]
            part = _rows(latents, chosen)
            drawn = changer.text_difference(
                part, [e.base_text for e in edits], [e.text for e in edits], self.settings.thetas
            )
            before = [readings[row] for row in chosen]
            after = {name: self._readings(changer, part, each) for name, each in drawn.items()}
            found[attribute] = _moves(edits, before, after)
            shown = Column("reconstruction", _pixels(again[chosen]))
            names = [f"to {edit.text}" for edit in edits]
            self._show(f"text differences, {attribute}", [shown], drawn, names)
        return found

    def _readings(self, changer: Manipulator, latents: Latents, pictures: Tensor) -> list[Reading]:
        if self.judge is None:
            return [{}] * len(pictures)
        return [self._read(each) for each in to_images(changer.final(pictures, latents.indices))]

    def _read(self, picture: Any) -> Reading:  # noqa: ANN401 - as the judge takes it
        return {} if self.judge is None else self.judge(picture)

    def _show(
        self, name: str, columns: list[Column], drawn: Drawn, row_names: Sequence[str] = ()
    ) -> None:
        if self.shown_uri is not None:
            found = sheet([*columns, *_columns(drawn)], NUM_SHOWN, SHOWN_PX, row_names)
            storage.write_bytes(storage.join(self.shown_uri, f"{name}.png"), found)


def _pixels(pictures: Float[Tensor, " picture 3 side side"]) -> Bytes:
    return to_bytes(pictures).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _columns(drawn: Drawn) -> list[Column]:
    return [Column(name, _pixels(each)) for name, each in drawn.items()]


def _rows(latents: Latents, rows: Sequence[int]) -> Latents:
    chosen = list(rows)
    indices = tuple(latents.indices[row] for row in chosen)
    return Latents(latents.z_img[chosen], latents.x_end[chosen], indices)


def _interpolated(changer: Manipulator, latents: Latents) -> Drawn:
    """From each picture to the next, of the last to the first."""
    following = [*range(1, len(latents.indices)), 0]
    return changer.interpolation(latents, _rows(latents, following), STEPS_BETWEEN)


def _end_differences(between: Drawn, again: Bytes) -> list[int]:
    """Largest difference of a byte between both ends of each row and the reconstructions."""
    first, *_, last = (_pixels(pictures).astype(int) for pictures in between.values())
    wanted = again.astype(int)
    following = np.roll(wanted, -1, axis=0)
    worst = np.maximum(abs(first - wanted), abs(last - following)).max(axis=(1, 2, 3))
    return worst.tolist()


def _moves(
    edits: Sequence[Edit], before: Sequence[Reading], after: Mapping[str, Sequence[Reading]]
) -> dict[str, Any]:
    """Of pictures that show the old value: who shows the new one, and who kept all else."""
    found: dict[str, Any] = {}
    for name, readings in after.items():
        rows = [
            (edit, old, new)
            for edit, old, new in zip(edits, before, readings, strict=True)
            if old.get(edit.attribute) == edit.old
        ]
        others = _kept((old, new) for _, old, new in rows)
        found[name] = {
            "moved": [new.get(edit.attribute) == edit.new for edit, _, new in rows],
            "others_kept": {n: kept for n, kept in others.items() if n != edits[0].attribute},
        }
    return found


def _kept(readings: Iterable[tuple[Reading, Reading]]) -> dict[str, list[bool]]:
    """Per attribute whether what was read before is read again, where something was."""
    kept: dict[str, list[bool]] = {}
    for before, after in readings:
        for attribute, value in before.items():
            if value is not None:
                kept.setdefault(attribute, []).append(after.get(attribute) == value)
    return kept
