"""What diffusers' unCLIP pipelines cannot express of a stack, and what they do otherwise."""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.diffusion.config import DiffusionConfig
from pipeline.errors import ConfigError
from pipeline.generation.config import Sampling
from pipeline.generation.weights import StackFiles
from pipeline.models.config import (
    VOCABULARY_SIZE,
    ClipConfig,
    DecoderConfig,
    OwnText,
    PriorConfig,
    UNetConfig,
    UpsamplerConfig,
    VisionTowerConfig,
)

OWN_TEXT = "the pipeline gives captions to the frozen CLIP alone; train with text: {type: clip}"


@dataclass(frozen=True)
class Upsampling:
    """One upsampler's sizes and process."""

    model: UpsamplerConfig
    diffusion: DiffusionConfig

    @property
    def name(self) -> str:
        """As its stage is called."""
        return f"upsampler_{self.model.low_px}_{self.model.high_px}"


@dataclass(frozen=True)
class Exportable:
    """Configurations of a stack that the pipelines can run."""

    clip: ClipConfig
    prior: PriorConfig
    prior_diffusion: DiffusionConfig
    decoder: DecoderConfig
    decoder_diffusion: DiffusionConfig
    upsamplers: tuple[Upsampling, ...]

    @classmethod
    def of(cls, files: StackFiles) -> "Exportable":
        """Check a stack.

        Raises:
            ConfigError: Names every field that cannot be expressed, why, and what helps.
        """
        upsamplers = tuple(
            Upsampling(found.model(UpsamplerConfig), found.diffusion) for found in files.upsamplers
        )
        clip, decoder = files.clip.model(ClipConfig), files.decoder.model(DecoderConfig)
        told = [*_clip(clip), *_decoder(decoder, files.decoder.diffusion)]
        for place, each in enumerate(upsamplers):
            told += _upsampler(each, is_first=place == 0)
        if not upsamplers:
            told.append("upsamplers: none; the pipeline runs one after the decoder; train one")
        if files.prior is None or files.prior.kind != "prior":
            kind = "none" if files.prior is None else files.prior.kind
            told.append(f"prior.task.type={kind}: the pipeline runs a diffusion prior; train one")
        else:
            prior = files.prior.model(PriorConfig)
            told += _prior(prior, files.prior.diffusion)
            if not told:
                diffusions = files.prior.diffusion, files.decoder.diffusion
                return cls(clip, prior, diffusions[0], decoder, diffusions[1], upsamplers)
        raise ConfigError("diffusers cannot run this stack: " + "; ".join(told))


def _clip(config: ClipConfig) -> Iterator[str]:
    if not isinstance(config.vision, VisionTowerConfig):
        yield (
            f"clip.task.model.vision.type={config.vision.type}: the pipeline's image encoder is a "
            "vision transformer; train a CLIP with one"
        )
    if config.text.width != config.embed_dim:
        yield (
            f"clip.task.model.text.width={config.text.width}: the pipeline has one size for text "
            f"states and embeddings, embed_dim={config.embed_dim}; train a CLIP with equal sizes"
        )
    if config.text.vocab_size != VOCABULARY_SIZE:
        yield (
            f"clip.task.model.text.vocab_size={config.text.vocab_size}: the tokenizer has "
            f"{VOCABULARY_SIZE} entries; train a CLIP with as many"
        )


def _process(section: str, diffusion: DiffusionConfig) -> Iterator[str]:
    if diffusion.schedule != "cosine":
        yield (
            f"{section}.task.diffusion.schedule={diffusion.schedule}: UnCLIPScheduler knows cosine "
            "alone; train with it"
        )
    if diffusion.prediction == "v":
        yield (
            f"{section}.task.diffusion.prediction=v: UnCLIPScheduler knows eps and x_start; train "
            "with one of them"
        )


def _prior(config: PriorConfig, diffusion: DiffusionConfig) -> Iterator[str]:
    if isinstance(config.text, OwnText):
        yield f"prior.task.model.text.type=own: {OWN_TEXT}"
    if config.space != "whitened":
        yield (
            f"prior.task.model.space={config.space}: the pipeline undoes a mean and a deviation "
            "per dimension, and embeddings lose their length in this space; train with whitened"
        )
    yield from _process("prior", diffusion)


def _decoder(config: DecoderConfig, diffusion: DiffusionConfig) -> Iterator[str]:
    where = "decoder.task.model"
    if isinstance(config.text, OwnText):
        yield f"{where}.text.type=own: {OWN_TEXT}"
    if config.embedding != "z_img":
        yield (
            f"{where}.embedding={config.embedding}: the pipeline gives the decoder embeddings of "
            "pictures; train it on z_img"
        )
    if not config.unet.mid_attention:
        yield (
            f"{where}.unet.mid_attention=false: of its middle blocks with two residual blocks "
            "all attend; train with true"
        )
    num_tokens = config.num_image_tokens + config.clip.context_length
    for level in config.unet.attention_levels:
        if (config.image_px >> level) ** 2 == num_tokens:
            yield (
                f"{where}.unet.attention_levels: level {level} has {num_tokens} pixels, as many as "
                "there are context tokens, which its attention masks take for the same; change "
                "num_image_tokens"
            )
    yield from _unet(where, config.unet)
    yield from _process("decoder", diffusion)


def _unet(where: str, config: UNetConfig) -> Iterator[str]:
    if config.multipliers[0] != 1:
        yield (
            f"{where}.unet.multipliers[0]={config.multipliers[0]}: its first level has the width "
            "of the first convolution; use 1, and larger channels"
        )
    if config.patch_px > 1:
        yield (
            f"{where}.unet.patch_px={config.patch_px}: its networks read single pixels; train with "
            "1"
        )


def _upsampler(each: Upsampling, *, is_first: bool) -> Iterator[str]:
    yield from _unet(f"{each.name}.task.model", each.model.unet)
    if is_first:
        yield from _process(each.name, each.diffusion)


def differences(stack: Exportable, sampling: Sampling) -> list[str]:
    """What the pipeline does otherwise than the run itself, a line each."""
    first = sampling.upsamplers[0] if sampling.upsamplers else None
    told = {
        f"the pipeline draws one z_img, not the best of {sampling.prior.num_candidates}": (
            sampling.prior.num_candidates > 1
        ),
        f"the decoder is sampled by ancestral steps, not by {sampling.decoder.sampler}": (
            sampling.decoder.sampler != "ddpm"
        ),
        "the first upsampler is sampled by ancestral steps, not by ddim": True,
        "the first upsampler is shown the small picture enlarged by bicubic, it was trained with "
        "bilinear": stack.upsamplers[0].model.resize == "bilinear",
        "large pictures are not shifted back to the small ones (back_project)": (
            first is not None and first.back_project
        ),
    }
    return [line for line, applies in told.items() if applies]
