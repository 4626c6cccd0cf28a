"""Zero-shot classification: a class is the mean of its prompts' embeddings.

Dimension names: ``batch`` (pictures), ``class``, ``dim`` (joint embedding). Source: Radford et al.
2021 §3.1.4: prompt ensembles are averaged in embedding space.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.models.clip import ClipModel
from pipeline.models.tokenizer import tokenizer

TEMPLATES = (
    "a photo of a {}.",
    "a picture of a {}.",
    "a close-up photo of a {}.",
    "a photo of one {}.",
    "a photo of the large {}.",
    "a photo of the small {}.",
    "a drawing of a {}.",
)
"""A small ensemble of our own wording; a benchmark's published one may be given instead."""


@torch.no_grad()
def class_embeddings(
    clip: ClipModel, names: Sequence[str], templates: Sequence[str] = TEMPLATES
) -> Float[Tensor, " class dim"]:
    """One unit vector per class: the normalised mean of its prompts' normalised embeddings.

    Args:
        clip: The model; its device is used.
        names: Class names as they stand in a prompt.
        templates: Prompts with one ``{}``.

    Raises:
        ConfigError: A template has no place for the name.
    """
    for template in templates:
        if template.count("{}") != 1:
            raise ConfigError(f"template {template!r} needs exactly one {{}} for the class's name")
    device = clip.logit_scale.device
    length = clip.config.text.context_length
    rows = []
    for name in names:
        prompts = [template.replace("{}", name) for template in templates]
        tokens = torch.from_numpy(tokenizer()(prompts))[:, :length].to(device)
        z_txt, _ = clip.encode_text(tokens)
        rows.append(F.normalize(F.normalize(z_txt, dim=-1).mean(dim=0), dim=-1))
    return torch.stack(rows)


@torch.no_grad()
def zero_shot(
    clip: ClipModel,
    images: Float[Tensor, " batch 3 px px"],
    classes: Float[Tensor, " class dim"],
) -> Float[Tensor, " batch class"]:
    """Probability of each class for each picture.

    Args:
        clip: The model.
        images: Pictures in [-1, 1] of the side that it reads.
        classes: As `class_embeddings` gives them.
    """
    z_img = F.normalize(clip.encode_image(images), dim=-1)
    return (clip.temperature() * z_img @ classes.T).softmax(dim=-1)
