"""Results of earlier stages that a task stands on: a frozen CLIP, statistics of embeddings.

Dimension names: ``batch``; ``token`` and ``kept`` (caption positions, all and computed); ``dim``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline import storage
from pipeline.errors import ConfigError, DataError
from pipeline.models.clip import ClipModel
from pipeline.models.layers import token_mask
from pipeline.models.presets import load_clip
from pipeline.models.text import OwnTextEncoder
from pipeline.results import Result
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.embedding_files import EmbeddedDataset

OTHER_EMBEDDING = "z_txt_tokens"
"""In a batch: ids of the captions whose z_txt is read, where it is not that of ``text_tokens``."""


@dataclass(frozen=True)
class TaskInputs:
    """Results of earlier stages that a task stands on; never part of its configuration."""

    clip_weights_uri: str | None = None
    """Frozen CLIP whose text encoder the prior and the decoder read captions through."""
    z_mean: tuple[float, ...] | None = None
    """Mean of z_img over all embedded pictures, per dimension."""
    z_std: tuple[float, ...] | None = None
    """Standard deviation of z_img over all embedded pictures, per dimension."""
    codes_uri: str | None = None
    """Tables by which the autoregressive prior turns embeddings into codes."""
    clip: ClipModel | None = None
    """The frozen CLIP itself, where there are no weights to read: in a plan."""


class FrozenText:
    """The frozen CLIP text encoder, loaded at first use and kept on the batch's device."""

    def __init__(self, inputs: TaskInputs) -> None:
        """Remember where the weights lie; nothing is read yet."""
        self._uri = inputs.clip_weights_uri
        self._clip = inputs.clip

    @torch.no_grad()
    def __call__(
        self, text_tokens: Int[Tensor, " batch token"]
    ) -> tuple[
        Float[Tensor, " batch dim"],
        Float[Tensor, " batch kept width"],
        Bool[Tensor, " batch kept"],
    ]:
        """Raw text embeddings, token states, and which states belong to the caption."""
        if self._clip is None:
            if self._uri is None:
                raise ConfigError("this task reads captions: it needs the weights of a CLIP")
            self._clip = load_clip(self._uri).requires_grad_(False).eval().to(text_tokens.device)
        z_txt, states = self._clip.encode_text(text_tokens)
        return z_txt, states, token_mask(text_tokens)[:, : states.shape[1]]


def task_inputs(results: Mapping[str, Result], curated: CuratedDataset) -> TaskInputs:
    """What a task stands on, of finished stages.

    Args:
        results: Of ``clip`` and ``embed`` what there is.
        curated: The data set.

    Raises:
        DataError: CLIP's weights are not those of its manifest.
    """
    clip_uri = mean = std = None
    if "clip" in results:
        clip = results["clip"]
        clip_uri = storage.join(clip.uri, clip.content["weights"]["name"])
        found = storage.sha256_of(clip_uri)
        if found != clip.content["weights"]["sha256"]:
            raise DataError(f"{clip_uri} is not the file of its manifest; train CLIP again")
    if "embed" in results:
        mean, std = EmbeddedDataset(results["embed"], curated).statistics()
    return TaskInputs(clip_weights_uri=clip_uri, z_mean=mean, z_std=std)


def prior_text(
    encoder: OwnTextEncoder | None, frozen: FrozenText, batch: dict[str, Tensor]
) -> tuple[
    Float[Tensor, " batch dim"],
    Float[Tensor, " batch kept width"],
    Bool[Tensor, " batch kept"],
]:
    """What a prior reads of captions: CLIP's z_txt, and states of CLIP or of its own encoder."""
    z_txt, states, mask = _frozen_text(frozen, batch)
    if encoder is not None:
        _, states, mask = encoder(batch["own_tokens"])
    return z_txt, states, mask


def decoder_text(
    encoder: OwnTextEncoder | None, frozen: FrozenText, batch: dict[str, Tensor]
) -> tuple[
    Float[Tensor, " batch dim"],
    Float[Tensor, " batch kept width"],
    Bool[Tensor, " batch kept"],
]:
    """What a decoder reads of captions: all from CLIP, or all from its own encoder."""
    return _frozen_text(frozen, batch) if encoder is None else encoder(batch["own_tokens"])


def _frozen_text(
    frozen: FrozenText, batch: dict[str, Tensor]
) -> tuple[
    Float[Tensor, " batch dim"],
    Float[Tensor, " batch kept width"],
    Bool[Tensor, " batch kept"],
]:
    z_txt, states, mask = frozen(batch["text_tokens"])
    if OTHER_EMBEDDING in batch:
        z_txt, _, _ = frozen(batch[OTHER_EMBEDDING])
    return z_txt, states, mask


def statistics(inputs: TaskInputs) -> tuple[Float[Tensor, " dim"], Float[Tensor, " dim"]]:
    """Mean and standard deviation of z_img, which must have been given.

    Deviations below 1e-4 of the largest are raised to it: a dimension that never varies stays 0.
    """
    if inputs.z_mean is None or inputs.z_std is None:
        raise ConfigError("this task whitens z_img: it needs the statistics of the embeddings")
    std = torch.tensor(inputs.z_std)
    return torch.tensor(inputs.z_mean), std.clamp(min=1e-4 * float(std.max()))
