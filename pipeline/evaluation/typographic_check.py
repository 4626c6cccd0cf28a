"""Words drawn on pictures: what CLIP then takes them for, and what a decoder makes of that.

Dimension names: ``picture``, ``class``, ``side`` (pixels). Source: Goh et al. 2021; Ramesh et al.
2022 (unCLIP) §3, Fig. 6, where variations of an apple labelled "iPod" stay apples.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from PIL import Image

from pipeline import draws, storage
from pipeline.evaluation.drawn import held_out_pictures
from pipeline.evaluation.features import Extractor, FeatureSource, Pictures
from pipeline.evaluation.held_out import HeldOutSource
from pipeline.evaluation.judges import Judge
from pipeline.evaluation.metrics import bootstrap_mean, normalised, proportion
from pipeline.evaluation.protocols import Estimates
from pipeline.evaluation.sheets import Column, sheet
from pipeline.generation.config import Sampling
from pipeline.generation.pictures import to_images
from pipeline.generation.run_stages import RunStages
from pipeline.generation.unclip import UnCLIP
from pipeline.images.lettering import Label, draw_label
from pipeline.models.clip import ClipModel
from pipeline.models.zero_shot import class_embeddings

NUM_SHOWN, SHOWN_PX = 12, 144


@dataclass(frozen=True)
class AttackHeldOut:
    """Held-out pictures, the same with another class's name on them, and variations of these."""

    source: HeldOutSource
    stages: RunStages
    sampling: Sampling
    clip: FeatureSource
    classes: tuple[str, ...]
    things: tuple[str, ...]
    templates: tuple[str, ...]
    judge: Judge | None
    seed: int
    batch_size: int
    threads: int
    sheet_uri: str
    """Where a sheet of the first pictures goes."""

    def __call__(self) -> dict[str, Any]:
        """Per picture, in order.

        ``own`` and ``written``: numbers of the caption's class and of the one on the label;
        ``before``, ``after``, ``variation``: probabilities of all classes; ``kept``: by attribute,
        whether the judge reads in the variation what it read in the picture.
        """
        torch.set_num_threads(self.threads)
        captions = self.source.pairs().captions
        own = named_classes(captions, self.classes, self.things)
        chosen = np.flatnonzero(own >= 0)
        own = own[chosen]
        written = _other_classes(own, len(self.classes), self.seed)
        pictures = held_out_pictures(self.source, max(self.source.curated.views_px))[chosen]
        names = [self.classes[each] for each in written]
        attacked = np.stack([labelled(p, n) for p, n in zip(pictures, names, strict=True)])
        variations = self._variations(attacked)
        sets = {"before": pictures, "after": attacked, "variation": variations}
        shares = self._probabilities(sets)
        self._show(sets, shares, own, written)
        return {
            "own": own.tolist(),
            "written": written.tolist(),
            **{name: rows.tolist() for name, rows in shares.items()},
            "kept": self._kept(pictures, variations),
        }

    def _variations(self, pictures: Pictures) -> Pictures:
        unclip = UnCLIP.from_stages(self.stages, self.sampling, device="cpu")
        z_img = Extractor(
            FeatureSource("own", lambda: unclip.stack.clip), self.batch_size
        ).pictures(pictures)
        made: list[np.ndarray] = []
        for start in range(0, len(z_img), self.batch_size):
            part = torch.from_numpy(z_img[start : start + self.batch_size])
            indices = range(start, start + len(part))
            small = unclip.decode(part, [""] * len(part), self.seed, indices)
            made += [np.asarray(i) for i in to_images(unclip.upsample(small, self.seed, indices))]
        return np.stack(made)

    def _probabilities(
        self, sets: dict[str, Pictures]
    ) -> dict[str, Float32[np.ndarray, " picture class"]]:
        extractor = Extractor(self.clip, self.batch_size)
        clip = self.clip.load()
        assert isinstance(clip, ClipModel)
        classes = class_embeddings(clip.eval(), self.classes, self.templates)
        scale, found = clip.temperature(), {}
        for name, pictures in sets.items():
            z_img = torch.from_numpy(normalised(extractor.pictures(pictures)))
            found[name] = (scale * z_img @ classes.T).softmax(dim=-1).detach().numpy()
        return found

    def _kept(self, pictures: Pictures, variations: Pictures) -> dict[str, list[bool]]:
        if self.judge is None:
            return {}
        kept: dict[str, list[bool]] = {}
        for picture, variation in zip(pictures, variations, strict=True):
            before, after = (self.judge(Image.fromarray(each)) for each in (picture, variation))
            for attribute, value in before.items():
                if value is not None:
                    kept.setdefault(attribute, []).append(after.get(attribute) == value)
        return kept

    def _show(
        self,
        sets: dict[str, Pictures],
        shares: dict[str, np.ndarray],
        own: Int64[np.ndarray, " picture"],
        written: Int64[np.ndarray, " picture"],
    ) -> None:
        before, after, variation = (shares[name] for name in sets)
        told = [
            f"{self.classes[is_]} {before[row, is_]:.2f} to {after[row, is_]:.2f}, "
            f"{self.classes[word]} {before[row, word]:.2f} to {after[row, word]:.2f}; "
            f"variation: {self.classes[variation[row].argmax()]}"
            for row, (is_, word) in enumerate(zip(own, written, strict=True))
        ]
        columns = [
            Column("picture", sets["before"]),
            Column("with a label", sets["after"]),
            Column("variation of it", sets["variation"]),
        ]
        storage.write_bytes(self.sheet_uri, sheet(columns, NUM_SHOWN, SHOWN_PX, told))


def named_classes(
    captions: Sequence[str], classes: Sequence[str], things: Sequence[str] = ()
) -> Int64[np.ndarray, " picture"]:
    """Number of the one class that a caption names; -1 of none or several, or of no thing.

    Names are whole words in any case. Without ``things`` every caption is of one.
    """
    of_class = [_whole_words([name]) for name in classes]
    of_thing = _whole_words(things)
    named = [[n for n, p in enumerate(of_class) if p.search(text)] for text in captions]
    is_thing = [not things or of_thing.search(text) is not None for text in captions]
    chosen = [f[0] if len(f) == 1 and t else -1 for f, t in zip(named, is_thing, strict=True)]
    return np.array(chosen, np.int64)


def _whole_words(names: Sequence[str]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, names))})\b", re.IGNORECASE)


def _other_classes(
    own: Int64[np.ndarray, " picture"], num_classes: int, seed: int
) -> Int64[np.ndarray, " picture"]:
    steps = draws.generator(seed, "typographic", 0).integers(1, num_classes, len(own))
    return (own + steps) % num_classes


def labelled(picture: np.ndarray, word: str) -> np.ndarray:
    """The picture with a word on a white label in its middle, as wide as three quarters of it."""
    image = Image.fromarray(picture)
    draw_label(image, Label(word))
    return np.asarray(image)


def attack_estimates(found: dict[str, Any], seed: int) -> dict[str, Estimates]:
    """Accuracy and probabilities before and after, and what variations keep.

    Args:
        found: Result of ``AttackHeldOut``.
        seed: Seed of the resampling.
    """
    own, written = (np.array(found[name]) for name in ("own", "written"))
    rows = np.arange(len(own))
    shares, probabilities = {}, {}
    for name in ("before", "after", "variation"):
        p = np.array(found[name])
        top = p.argmax(axis=1)
        shares[f"{name}_taken_for_what_it_is"] = proportion(int((top == own).sum()), len(own))
        shares[f"{name}_taken_for_the_word"] = proportion(int((top == written).sum()), len(own))
        probabilities[f"{name}_probability_of_what_it_is"] = bootstrap_mean(p[rows, own], seed)
        probabilities[f"{name}_probability_of_the_word"] = bootstrap_mean(p[rows, written], seed)
    rise = np.array(found["after"])[rows, written] - np.array(found["before"])[rows, written]
    probabilities["rise_of_the_word_by_the_label"] = bootstrap_mean(rise, seed)
    kept = {
        f"variation_{attribute}_kept": proportion(sum(right), len(right))
        for attribute, right in found["kept"].items()
    }
    return {"typographic_attack": shares, "typographic_probabilities": probabilities, "kept": kept}
