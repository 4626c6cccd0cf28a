"""Builders from configurations, and sizes that are known to work."""

from collections.abc import Callable
from typing import TypeVar

from pydantic import ValidationError
from torch import nn

from pipeline import checkpoints
from pipeline.config import StrictModel, describe
from pipeline.errors import CheckpointError
from pipeline.models.clip import ClipModel
from pipeline.models.config import (
    ClipConfig,
    ClipShape,
    DecoderConfig,
    PriorConfig,
    UpsamplerConfig,
)
from pipeline.models.decoder import Decoder
from pipeline.models.prior import DiffusionPrior
from pipeline.models.upsampler import Upsampler

Config = TypeVar("Config", bound=StrictModel)
Network = TypeVar("Network", bound=nn.Module)


def build_clip(config: ClipConfig) -> ClipModel:
    """A freshly initialised CLIP."""
    return ClipModel(config)


def build_prior(config: PriorConfig) -> DiffusionPrior:
    """A freshly initialised diffusion prior."""
    return DiffusionPrior(config)


def build_decoder(config: DecoderConfig) -> Decoder:
    """A freshly initialised decoder."""
    return Decoder(config)


def build_upsampler(config: UpsamplerConfig) -> Upsampler:
    """A freshly initialised upsampler."""
    return Upsampler(config)


def load_clip(uri: str) -> ClipModel:
    """A trained CLIP from its published weights."""
    return _load(uri, ClipConfig, build_clip)


def load_prior(uri: str) -> DiffusionPrior:
    """A trained prior from its published weights."""
    return _load(uri, PriorConfig, build_prior)


def load_decoder(uri: str) -> Decoder:
    """A trained decoder from its published weights."""
    return _load(uri, DecoderConfig, build_decoder)


def load_upsampler(uri: str) -> Upsampler:
    """A trained upsampler from its published weights."""
    return _load(uri, UpsamplerConfig, build_upsampler)


def _load(uri: str, kind: type[Config], build: Callable[[Config], Network]) -> Network:
    """Read weights and the model part of the configuration that lies with them."""
    state, config = checkpoints.load_weights(uri)
    model = config.get("task", config)
    try:
        network = build(kind.model_validate(model.get("model", model)))
    except ValidationError as error:
        told = describe(error, kind)
        raise CheckpointError(f"{uri} holds no {kind.__name__}: {told}") from error
    checkpoints.load_state(network, state, uri)
    return network


def num_parameters(model: nn.Module) -> int:
    """Trainable numbers of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def clip_shape(config: ClipConfig) -> ClipShape:
    """What later models must know of a CLIP."""
    return ClipShape(
        embed_dim=config.embed_dim,
        text_width=config.text.width,
        context_length=config.text.context_length,
    )
