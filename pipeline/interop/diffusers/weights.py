"""Our state dicts as the state dicts of diffusers' models, and back.

Names begin with the component's folder. What has no place of its own there is folded in exactly:
the decoder's whitening into its projections, a fixed variance into a learned one that never moves.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.interop.diffusers import names
from pipeline.interop.pairs import State, meta_state, to_ours, to_theirs
from pipeline.models.clip import MAX_LOGIT_SCALE
from pipeline.models.config import ClipConfig, DecoderConfig, PriorConfig, UpsamplerConfig
from pipeline.models.presets import build_clip, build_decoder, build_prior, build_upsampler

WHITENING = ("z_mean", "z_std")
TEMPERATURE = "logit_scale"
_READ_Z = ("z_img_to_emb", "z_img_to_context")
"""Linear layers that read the whitened embedding or the null vector."""
_OUT = "unet.conv_out"


def export_prior(state: Mapping[str, Tensor], config: PriorConfig) -> State:
    """``prior``."""
    return to_theirs(state, names.prior_table(config))


def export_decoder(state: Mapping[str, Tensor], config: DecoderConfig) -> State:
    """``decoder`` and ``text_proj``."""
    whole = folded(state)
    if not config.learned_variance:
        whole |= with_least_variance(whole)
    return to_theirs(whole, names.decoder_table(config))


def export_upsampler(state: Mapping[str, Tensor], config: UpsamplerConfig, component: str) -> State:
    """A ``UNet2DModel`` in the folder ``component``."""
    return to_theirs(state, names.unet_table(config.unet, component))


def export_clip(state: Mapping[str, Tensor], config: ClipConfig) -> State:
    """``text_encoder`` and ``image_encoder``; no place is left for the temperature."""
    kept = {name: tensor for name, tensor in state.items() if name != TEMPERATURE}
    return to_theirs(kept, names.clip_table(config))


def import_prior(theirs: Mapping[str, Tensor], config: PriorConfig, source: str) -> State:
    """The inverse of ``export_prior``."""
    own = meta_state(lambda: build_prior(config))
    return to_ours(theirs, own, names.prior_table(config), source)


def import_decoder(theirs: Mapping[str, Tensor], config: DecoderConfig, source: str) -> State:
    """The inverse of ``export_decoder``; embeddings enter as they are."""
    own = meta_state(lambda: build_decoder(config.model_copy(update={"learned_variance": True})))
    table = names.decoder_table(config)
    rest = {name: tensor for name, tensor in own.items() if name not in WHITENING}
    state = to_ours(theirs, rest, table, source)
    if not config.learned_variance:
        state |= {f"{_OUT}.{leaf}": state[f"{_OUT}.{leaf}"][:3] for leaf in ("weight", "bias")}
    dim = config.clip.embed_dim
    return {**state, "z_mean": torch.zeros(dim), "z_std": torch.ones(dim)}


def import_upsampler(
    theirs: Mapping[str, Tensor], config: UpsamplerConfig, component: str, source: str
) -> State:
    """The inverse of ``export_upsampler``."""
    own = meta_state(lambda: build_upsampler(config))
    return to_ours(theirs, own, names.unet_table(config.unet, component), source)


def import_clip(theirs: Mapping[str, Tensor], config: ClipConfig, source: str) -> State:
    """The inverse of ``export_clip``; the temperature is the bound at which trainings end."""
    own = meta_state(lambda: build_clip(config))
    own.pop(TEMPERATURE)
    state = to_ours(theirs, own, names.clip_table(config), source)
    return {**state, TEMPERATURE: torch.tensor(MAX_LOGIT_SCALE)}


def folded(state: Mapping[str, Tensor]) -> State:
    r"""The decoder for embeddings as they are: whitening within what reads them.

    .. math:: W\tfrac{z - \mu}{\sigma} + b = W' z + b', \quad W' = W/\sigma,\; b' = b - W'\mu

    The null vector n enters unwhitened: :math:`W n + b = W' n' + b'` with
    :math:`n' = \sigma n + \mu`. In float64, rounded once.
    """
    whole = {name: tensor for name, tensor in state.items() if name not in WHITENING}
    mean, std = (state[name].double() for name in WHITENING)
    for layer in _READ_Z:
        weight = whole[f"{layer}.weight"].double() / std
        bias = whole[f"{layer}.bias"].double() - weight @ mean
        whole |= {f"{layer}.weight": weight.float(), f"{layer}.bias": bias.float()}
    whole["null_z"] = (whole["null_z"].double() * std + mean).float()
    return whole


def with_least_variance(state: Mapping[str, Tensor]) -> State:
    """Output layer with three more channels that always say -1: the posterior's variance.

    The pipelines split a variance off whenever they guide. Source: Nichol & Dhariwal 2021, Eq. 15,
    where v = (-1 + 1)/2 = 0 leaves the smaller of the two bounds.
    """
    weight, bias = state[f"{_OUT}.weight"], state[f"{_OUT}.bias"]
    return {
        f"{_OUT}.weight": torch.cat([weight, torch.zeros_like(weight)]),
        f"{_OUT}.bias": torch.cat([bias, -torch.ones_like(bias)]),
    }


def says_least_variance(theirs: Mapping[str, Tensor]) -> bool:
    """Whether a decoder's variance is what ``with_least_variance`` writes."""
    weight, bias = (theirs[f"{names.DECODER}.conv_out.{leaf}"][3:] for leaf in ("weight", "bias"))
    return bool((weight == 0).all() and (bias == -1).all())
