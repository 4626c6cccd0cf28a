"""Sizes of every network; plain numbers that import no torch.

A configuration and a state dict together are a model: both lie in a weights file.
"""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from pipeline.config import StrictModel

VOCABULARY_SIZE = 49_408
"""Entries of CLIP's byte-pair vocabulary."""
CONTEXT_LENGTH = 77
"""Tokens of a caption, start and end marks included."""


def _check_heads(width: int, heads: int) -> None:
    if width % heads:
        raise ValueError(f"width={width} is not a multiple of heads={heads}")


def _check_head_width(width: int, head_width: int) -> None:
    if width % head_width:
        raise ValueError(f"width={width} is not a multiple of head_width={head_width}")


class VisionTowerConfig(StrictModel):
    """CLIP's image encoder: a vision transformer."""

    image_px: int = Field(ge=1)
    """Side of the pictures it reads, pixels."""
    patch_px: int = Field(ge=1)
    """Side of one patch, pixels; divides ``image_px``."""
    width: int = Field(ge=1)
    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    mlp_ratio: float = Field(default=4.0, gt=0)

    @model_validator(mode="after")
    def _divisible(self) -> "VisionTowerConfig":
        if self.image_px % self.patch_px:
            raise ValueError(
                f"image_px={self.image_px} is not a multiple of patch_px={self.patch_px}"
            )
        _check_heads(self.width, self.heads)
        return self


class ConvNextTowerConfig(StrictModel):
    """CLIP's image encoder: a convolutional network (ConvNeXt)."""

    type: Literal["convnext"]
    image_px: int = Field(ge=1)
    """Side of the pictures it reads, pixels."""
    patch_px: int = Field(default=4, ge=1)
    """Side of one patch of the first layer, pixels."""
    widths: tuple[int, ...] = Field(min_length=1)
    """Channels of every stage; each stage after the first halves rows and columns."""
    depths: tuple[int, ...] = Field(min_length=1)
    """Blocks of every stage."""
    head: Literal["linear", "mlp"] = "linear"
    """What ends in the joint embedding: one matrix, or a feed-forward of twice its size."""
    norm_eps: float = Field(default=1e-6, gt=0)
    layer_scale: float = Field(default=1e-6, gt=0)
    """What every block's branch is multiplied by at first; small towers learn faster from 1."""

    @model_validator(mode="after")
    def _fits(self) -> "ConvNextTowerConfig":
        if len(self.widths) != len(self.depths) or min(*self.widths, *self.depths) < 1:
            raise ValueError(
                f"widths={list(self.widths)} and depths={list(self.depths)}: every stage has one "
                "number of each, at least 1"
            )
        smallest = self.patch_px * 2 ** (len(self.widths) - 1)
        if self.image_px % smallest:
            raise ValueError(
                f"image_px={self.image_px} is not a multiple of {smallest}: patch_px="
                f"{self.patch_px}, halved {len(self.widths) - 1} times"
            )
        return self


def _tower(value: object) -> str:
    """A vision transformer needs no ``type``: CLIP had no other image encoder at first."""
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return VisionTowerConfig.__name__ if kind is None else ConvNextTowerConfig.__name__


TowerConfig = Annotated[
    Annotated[VisionTowerConfig, Tag(VisionTowerConfig.__name__)]
    | Annotated[ConvNextTowerConfig, Tag(ConvNextTowerConfig.__name__)],
    Discriminator(_tower),
]


class TextTowerConfig(StrictModel):
    """CLIP's text encoder: a causal transformer."""

    width: int = Field(ge=1)
    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    mlp_ratio: float = Field(default=4.0, gt=0)
    context_length: int = Field(default=CONTEXT_LENGTH, ge=2)
    vocab_size: int = Field(default=VOCABULARY_SIZE, ge=2)

    @model_validator(mode="after")
    def _divisible(self) -> "TextTowerConfig":
        _check_heads(self.width, self.heads)
        return self


class ClipConfig(StrictModel):
    """CLIP in open_clip's layout; its image encoder is a vision transformer or a ConvNeXt."""

    embed_dim: int = Field(ge=1)
    """Dimensions of the joint embedding; export needs ``text.width == embed_dim``."""
    vision: TowerConfig
    text: TextTowerConfig
    quick_gelu: bool = False
    """x·sigmoid(1.702 x) instead of the exact GELU: OpenAI's released weights use it."""


class OpenClipConfig(StrictModel):
    """A CLIP that is there already, in weights that open_clip reads."""

    model: str = Field(min_length=1)
    """Architecture as open_clip lists it: ``ViT-B-32``, ``ViT-L-14-quickgelu`` (OpenAI's weights);
    any plain vision-transformer or ConvNeXt CLIP."""
    weights_path: str = Field(min_length=1)
    """A local checkpoint; its bytes, not its place, are what counts. Nothing is downloaded."""

    def without_place(self) -> "OpenClipConfig":
        """The same settings wherever the weights lie."""
        return self.model_copy(update={"weights_path": ""})


class ClipShape(StrictModel):
    """What the prior and the decoder must know of the CLIP they stand on."""

    embed_dim: int = Field(ge=1)
    text_width: int = Field(ge=1)
    context_length: int = Field(default=CONTEXT_LENGTH, ge=2)


class ClipText(StrictModel):
    """Captions as the frozen CLIP text encoder reads them."""

    type: Literal["clip"] = "clip"


class OwnText(StrictModel):
    """Captions through tokens and a causal transformer of the model's own, trained with it."""

    type: Literal["own"]
    vocabulary: Literal["bpe", "bytes"] = "bpe"
    """CLIP's byte pairs, or the caption's UTF-8 bytes."""
    context_length: int = Field(default=256, ge=2)
    """Tokens of a caption, start and end marks included (Table 3: 256)."""
    width: int = Field(ge=1)
    layers: int = Field(ge=0)
    """0 hands the embedded tokens on as they are: for a model that is itself a transformer."""
    head_width: int = Field(default=64, ge=1)

    @model_validator(mode="after")
    def _divisible(self) -> "OwnText":
        _check_head_width(self.width, self.head_width)
        return self


TextInput = Annotated[ClipText | OwnText, Field(discriminator="type")]


class PriorConfig(StrictModel):
    """Diffusion prior: caption → image embedding."""

    clip: ClipShape
    width: int = Field(ge=1)
    layers: int = Field(ge=1)
    head_width: int = Field(default=64, ge=1)
    text: TextInput = ClipText()
    """Where the caption's tokens come from; z_txt is CLIP's in any case."""
    space: Literal["whitened", "scaled"] = "whitened"
    """What is diffused: each dimension whitened by stored statistics, or the normalised embedding
    times ``scale`` (paper App. C)."""
    scale: float = Field(default=17.2, gt=0)
    """Factor of ``scaled``; the paper's matches the pixel variance of ImageNet."""
    padding: Literal["masked", "last"] = "masked"
    """Where a short caption's padding stands: in its place behind a mask, or behind all other
    tokens, where causal attention needs no mask and its flash kernels run. The same function."""

    @model_validator(mode="after")
    def _divisible(self) -> "PriorConfig":
        _check_head_width(self.width, self.head_width)
        return self


class AutoregressivePriorConfig(StrictModel):
    """Autoregressive prior: caption → codes of the embedding's principal components."""

    clip: ClipShape
    width: int = Field(ge=1)
    layers: int = Field(ge=1)
    head_width: int = Field(default=64, ge=1)
    text: TextInput = ClipText()
    """Where the caption's tokens come from; z_txt is CLIP's in any case."""
    prefix_tokens: int = Field(default=CONTEXT_LENGTH, ge=1)
    """Caption positions that stand before the codes; longer captions are cut. The paper's context
    of 384 has room for 63 beside 319 codes, z_txt and the dot product."""
    num_buckets: int = Field(default=1024, ge=2)
    """Codes per component, of equal mass (paper §2.2: 1,024)."""
    dot_buckets: int = Field(default=64, ge=2)
    """Codes of z_img · z_txt, of equal mass; even, so that half of them are its upper half."""

    @model_validator(mode="after")
    def _divisible(self) -> "AutoregressivePriorConfig":
        _check_head_width(self.width, self.head_width)
        if self.dot_buckets % 2:
            raise ValueError(f"dot_buckets={self.dot_buckets} is odd and has no upper half; add 1")
        return self


class LinearPriorConfig(StrictModel):
    """Linear prior: z_img as an affine function of z_txt, in closed form."""

    clip: ClipShape
    ridge: float = Field(default=1e-3, ge=0)
    """Penalty of the weights, in mean variances of a dimension of z_txt."""


class UNetConfig(StrictModel):
    """ADM U-Net: channels per level, where it attends, how it is conditioned."""

    channels: int = Field(ge=1)
    """Channels of the first level; each level has ``channels · multiplier``."""
    multipliers: tuple[int, ...] = Field(min_length=1)
    patch_px: int = Field(default=1, ge=1, exclude_if=lambda value: value == 1)
    """Side of the squares of pixels that the network reads and writes as one, each pixel a channel:
    what it costs falls with their area, the picture keeps its pixels (Hoogeboom et al. 2023, simple
    diffusion, §3.2)."""
    res_blocks: int = Field(ge=1)
    """Residual blocks per level."""
    attention_levels: tuple[int, ...] = ()
    """Indices of the levels that attend (0 is full resolution)."""
    mid_attention: bool = True
    head_width: int = Field(default=64, ge=1)
    norm_groups: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    scale_shift: bool = True
    """The timestep scales and shifts the second norm (ADM) instead of being added before it."""

    @property
    def grid_px(self) -> int:
        """Sides of pictures are multiples of it."""
        return self.patch_px * 2 ** (len(self.multipliers) - 1)

    def check_side(self, name: str, side_px: int) -> None:
        """Raise ValueError where patches or levels do not divide a side."""
        if side_px % self.grid_px:
            raise ValueError(
                f"{name}={side_px} is not a multiple of {self.grid_px}: patch_px={self.patch_px}, "
                f"halved {len(self.multipliers) - 1} times"
            )

    @model_validator(mode="after")
    def _divisible(self) -> "UNetConfig":
        widths = [self.channels * multiplier for multiplier in self.multipliers]
        for width in widths:
            if width % self.norm_groups:
                raise ValueError(f"{width} channels do not divide into {self.norm_groups} groups")
        attending = {widths[level] for level in self.attention_levels if level < len(widths)}
        for width in attending | ({widths[-1]} if self.mid_attention else set()):
            if width % self.head_width:
                raise ValueError(f"{width} channels do not divide into heads of {self.head_width}")
        if any(level >= len(widths) for level in self.attention_levels):
            raise ValueError(
                f"attention_levels={self.attention_levels} name a level beyond {len(widths) - 1}"
            )
        return self


class DecoderConfig(StrictModel):
    """CLIP-conditioned U-Net: image embedding and caption → small picture."""

    clip: ClipShape
    image_px: int = Field(ge=1)
    """Side of the pictures it makes, pixels."""
    unet: UNetConfig
    context_width: int = Field(ge=1)
    """Width of the tokens that attention reads beside the picture's own."""
    num_image_tokens: int = Field(default=4, ge=1)
    """Context tokens projected from z_img (paper §2.1: 4)."""
    text: TextInput = ClipText()
    """Captions through the frozen CLIP (exportable), or an encoder of its own (the paper)."""
    embedding: Literal["z_img", "z_txt", "none"] = "z_img"
    """The embedding it is trained on: the picture's; the caption's, so that no prior is needed
    (paper §5.1, second model); or none, which is GLIDE (§5.1, first model)."""
    learned_variance: bool = False
    """Three more output channels that interpolate the variance (Nichol & Dhariwal 2021)."""

    @model_validator(mode="after")
    def _divisible(self) -> "DecoderConfig":
        self.unet.check_side("image_px", self.image_px)
        return self


class UpsamplerConfig(StrictModel):
    """Unconditional U-Net that reads a small picture and makes a larger one."""

    low_px: int = Field(ge=1)
    """Side of the small picture at full size, pixels."""
    high_px: int = Field(ge=1)
    """Side of the large picture at full size, pixels."""
    unet: UNetConfig
    resize: Literal["bilinear", "bicubic"] = Field(
        default="bilinear", exclude_if=lambda value: value == "bilinear"
    )
    """How the small picture is enlarged before the network reads it: as ADM does, or as Karlo and
    diffusers' pipelines do."""

    @model_validator(mode="after")
    def _grows(self) -> "UpsamplerConfig":
        if self.high_px % self.low_px:
            raise ValueError(f"high_px={self.high_px} is not a multiple of low_px={self.low_px}")
        self.unet.check_side("high_px", self.high_px)
        return self


Stage = Literal["clip", "prior", "autoregressive_prior", "linear_prior", "decoder", "upsampler"]
"""Kinds of trained model; the word in a weights file's metadata."""
