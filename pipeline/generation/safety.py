"""What is not drawn or not shown: rules on prompts and on pictures, off unless configured.

A prompt that a rule names is not drawn. A picture that a head or a classifier names is replaced by
black, in every size, and says so; every decision is recorded beside it. A *classifier* is a class
that an installed package names in the entry-point group ``unclip_pipeline.safety_classifiers``:

.. code-block:: python

    class TooRed:
        def __init__(self, settings):
            self.most = settings["most"]

        def __call__(self, prompts, images):
            reds = [ImageStat.Stat(image).mean[0] for image in images]
            return ["too_red" if red > self.most else None for red in reds]

What is said of a picture must not depend on the pictures beside it.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from pipeline.errors import ConfigError, DataError
from pipeline.generation.config import SafetyConfig
from pipeline.generation.prompts import Prompt
from pipeline.models.config import ClipConfig
from pipeline.plugins import plugin
from pipeline.selection.heads import check_head

GROUP = "unclip_pipeline.safety_classifiers"
REASON = re.compile(r"[a-z][a-z0-9_]*")
WORDS, PATTERNS = "words", "patterns"
Classifier = Callable[[Sequence[str], Sequence[Image.Image]], Sequence[str | None]]


class PromptRules:
    """Words and patterns that no prompt may hold."""

    def __init__(self, config: SafetyConfig) -> None:
        """Compile them."""
        words = "|".join(re.escape(_folded(word)) for word in config.words)
        self._words = re.compile(rf"(?<!\w)(?:{words})(?!\w)") if words else None
        self._patterns = [re.compile(pattern, re.IGNORECASE) for pattern in config.patterns]

    def __call__(self, prompt: str) -> str | None:
        """The rule that refuses a prompt: ``words``, ``patterns``, or None.

        Words are compared whole, after NFKC and without regard to case; patterns are searched for
        in the prompt as it is and as words see it.
        """
        folded = _folded(prompt)
        if self._words is not None and self._words.search(folded):
            return WORDS
        found = any(each.search(text) for each in self._patterns for text in (prompt, folded))
        return PATTERNS if found else None


def screened(
    prompts: Sequence[Prompt], config: SafetyConfig | None
) -> tuple[list[Prompt], list[tuple[str, str]]]:
    """The prompts that may be drawn, and those that may not with the rule.

    Raises:
        ConfigError: None is left.
    """
    if config is None:
        return list(prompts), []
    rules = PromptRules(config)
    found = [(prompt, rules(prompt.text)) for prompt in prompts]
    kept = [prompt for prompt, rule in found if rule is None]
    if not kept:
        told = dict(Counter(rule for _, rule in found))
        raise ConfigError(f"generate.safety refuses all {len(found)} prompts: {told}; change one")
    return kept, [(prompt.text, rule) for prompt, rule in found if rule is not None]


@dataclass(frozen=True)
class Verdict:
    """What was decided about a picture."""

    reasons: tuple[str, ...]
    """Heads and classifier reasons that withhold it; empty: it is shown."""
    scores: Mapping[str, float]
    """What each head said."""

    def as_json(self) -> dict[str, Any]:
        """The verdict as JSON."""
        return {
            "withheld": bool(self.reasons),
            "reasons": list(self.reasons),
            "scores": dict(self.scores),
        }

    def facts(self) -> dict[str, str]:
        """The verdict as text entries of a PNG."""
        return {"Withheld": ", ".join(self.reasons)} if self.reasons else {}


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict for several sizes of a picture: every reason, the highest scores."""
    names = {name for verdict in verdicts for name in verdict.scores}
    return Verdict(
        tuple(sorted({reason for verdict in verdicts for reason in verdict.reasons})),
        {name: max(verdict.scores[name] for verdict in verdicts) for name in sorted(names)},
    )


def picture_rules(
    config: SafetyConfig | None, clip: ClipConfig, clip_sha256: str
) -> "PictureRules | None":
    """The rules that look at pictures, None where there are none.

    Raises:
        ConfigError: One is missing or does not fit this CLIP.
    """
    if config is None or not (config.heads or config.classifiers):
        return None
    return PictureRules(config, clip.embed_dim, clip_sha256)


class PictureRules:
    """Heads on CLIP's embedding of a picture, and the user's own classifiers."""

    def __init__(self, config: SafetyConfig, dim: int, clip_sha256: str) -> None:
        """Load them.

        Args:
            config: Which.
            dim: Dimensions of the embeddings.
            clip_sha256: Hash of the CLIP that makes them.

        Raises:
            ConfigError: One is missing or does not fit.
        """
        self._heads = {
            name: (
                check_head(f"safety.heads.{name}", head.path, dim, clip_sha256),
                head.at_most,
            )
            for name, head in config.heads.items()
        }
        self._classifiers: dict[str, Classifier] = {
            each.name: plugin(GROUP, "classifier", each.name, each.version)(each.settings)
            for each in config.classifiers
        }

    def __call__(
        self,
        prompts: Sequence[str],
        images: Sequence[Image.Image],
        z_img: Float[np.ndarray, " picture dim"],
    ) -> list[Verdict]:
        """A verdict per picture.

        Args:
            prompts: What was asked for.
            images: The pictures.
            z_img: Their raw embeddings.

        Raises:
            DataError: A classifier did not answer as it should.
        """
        raw = z_img.astype(np.float16)
        scores = {name: head(raw).tolist() for name, (head, _) in self._heads.items()}
        told = [
            _checked(name, classifier(prompts, images), len(images))
            for name, classifier in self._classifiers.items()
        ]
        verdicts = []
        for place in range(len(images)):
            own = {name: round(values[place], 6) for name, values in scores.items()}
            above = [name for name, (_, at_most) in self._heads.items() if own[name] > at_most]
            named = [reason for reasons in told if (reason := reasons[place]) is not None]
            verdicts.append(Verdict((*above, *named), own))
        return verdicts


def shown(image: Image.Image, verdict: Verdict) -> Image.Image:
    """The picture, or black of its size."""
    return Image.new("RGB", image.size) if verdict.reasons else image


def _checked(name: str, reasons: Sequence[str | None], num: int) -> Sequence[str | None]:
    if len(reasons) != num:
        raise DataError(f"classifier {name} gave {len(reasons)} answers for {num} pictures")
    for reason in reasons:
        if reason is not None and not REASON.fullmatch(reason):
            raise DataError(f"classifier {name}: reason {reason!r} is not in snake_case")
    return reasons


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
