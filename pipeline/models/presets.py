"""Builders from configurations, and sizes that are known to work."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError
from torch import nn

from pipeline import weights_file
from pipeline.config import StrictModel, describe
from pipeline.errors import CheckpointError
from pipeline.models.clip import ClipModel, ResidualAttentionBlock
from pipeline.models.config import (
    AutoregressivePriorConfig,
    ClipConfig,
    ClipShape,
    DecoderConfig,
    LinearPriorConfig,
    PriorConfig,
    TextTowerConfig,
    UNetConfig,
    UpsamplerConfig,
    VisionTowerConfig,
)
from pipeline.models.convnext import ConvNextBlock
from pipeline.models.decoder import Decoder
from pipeline.models.layers import CausalBlock
from pipeline.models.prior import DiffusionPrior
from pipeline.models.prior_ar import AutoregressivePrior
from pipeline.models.prior_linear import LinearPrior
from pipeline.models.unet import Stage
from pipeline.models.upsampler import Upsampler

Config = TypeVar("Config", bound=StrictModel)
Network = TypeVar("Network", bound=nn.Module)

# Sizes for the small web of shapes on two CPU cores. In the margin: parameters, and what 3,300
# pictures taught one thread of a shared Xeon at 2.5 GHz.
DEMO_CLIP = ClipConfig(  # 3.7 M; 20,000 samples, 25 CPU-s: held-out colour 1.00, background 1.00
    embed_dim=64,
    vision=VisionTowerConfig(image_px=64, patch_px=16, width=96, layers=3, heads=3),
    text=TextTowerConfig(width=64, layers=2, heads=2),  # export wants width = embed_dim
)
_DEMO_SHAPE = ClipShape(embed_dim=64, text_width=64)
DEMO_PRIOR = PriorConfig(  # 0.87 M; 30,000 samples, 59 CPU-s: cosine to z_img 0.97 in training
    clip=_DEMO_SHAPE, width=128, layers=4, head_width=32
)
DEMO_DECODER = DecoderConfig(  # 0.88 M; eps, max_loss_weight 20, 40,000 samples, 236 CPU-s:
    clip=_DEMO_SHAPE,  # colour 0.72, caption hidden 0.67, mean embedding 0.06 (128 prompts,
    image_px=16,  # 30 DDIM steps, eta 1; with eta 0 and 20 steps 0.46)
    unet=UNetConfig(
        channels=16,
        multipliers=(1, 2, 4),
        res_blocks=1,
        attention_levels=(1, 2),
        head_width=32,
        norm_groups=4,
    ),
    context_width=64,
)
# Few groups: with 8 a group norm forgets how bright a small crop is, which x_start must know
# (PSNR after 8,000 samples 23.1 dB with 8 groups, 25.3 with 2, 25.0 with 1).
DEMO_UPSAMPLER_16_64 = UpsamplerConfig(
    low_px=16,
    high_px=64,
    unet=UNetConfig(
        channels=16, multipliers=(1, 2), res_blocks=1, mid_attention=False, norm_groups=1
    ),
)
DEMO_UPSAMPLER_64_256 = UpsamplerConfig(
    low_px=64,
    high_px=256,
    unet=UNetConfig(
        channels=8, multipliers=(1, 2, 4), res_blocks=1, mid_attention=False, norm_groups=1
    ),
)

BLOCKS: tuple[type[nn.Module], ...] = (ResidualAttentionBlock, ConvNextBlock, CausalBlock, Stage)
"""Repeated blocks of all networks: what activation checkpointing computes again."""


def build_clip(config: ClipConfig) -> ClipModel:
    """A freshly initialised CLIP."""
    return ClipModel(config)


def build_prior(config: PriorConfig) -> DiffusionPrior:
    """A freshly initialised diffusion prior."""
    return DiffusionPrior(config)


def build_autoregressive_prior(
    config: AutoregressivePriorConfig, num_components: int
) -> AutoregressivePrior:
    """A freshly initialised autoregressive prior of as many codes as the data need."""
    return AutoregressivePrior(config, num_components)


def build_linear_prior(config: LinearPriorConfig) -> LinearPrior:
    """A linear prior that is not fitted yet."""
    return LinearPrior(config)


def build_decoder(config: DecoderConfig) -> Decoder:
    """A freshly initialised decoder."""
    return Decoder(config)


def build_upsampler(config: UpsamplerConfig) -> Upsampler:
    """A freshly initialised upsampler."""
    return Upsampler(config)


def load_clip(uri: str) -> ClipModel:
    """A trained CLIP from its published weights."""
    return _load(uri, ClipConfig, build_clip)


def clip_config(uri: str) -> ClipConfig:
    """Sizes of a trained CLIP, without its weights."""
    return _model_config(weights_file.read_config(uri), ClipConfig, uri)


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
    state, config = weights_file.load_weights(uri)
    network = build(_model_config(config, kind, uri))
    weights_file.load_state(network, state, uri)
    return network


def _model_config(config: Mapping[str, Any], kind: type[Config], uri: str) -> Config:
    model = config.get("task", config)
    try:
        return kind.model_validate(model.get("model", model))
    except ValidationError as error:
        told = describe(error, kind)
        raise CheckpointError(f"{uri} holds no {kind.__name__}: {told}") from error


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
