"""Karlo's published checkpoints as our models: ADM's and GLIDE's layout under its own names.

Facts about names and shapes come from diffusers' script that converts the same files
(``convert_kakao_brain_unclip_to_diffusers.py``). The second network of its upsampler, fine-tuned
for the last of seven steps, has no place among our models and is left out.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.config import StrictModel
from pipeline.diffusion.config import BlurConfig, DiffusionConfig
from pipeline.errors import CheckpointError
from pipeline.interop.foreign_weights import Imported, read_state, read_tensors
from pipeline.interop.karlo_files import files
from pipeline.interop.pairs import (
    AS_CONVOLUTION,
    Table,
    at,
    in_turns,
    meta_state,
    to_ours,
)
from pipeline.interop.unet_places import Place, places
from pipeline.models.config import DecoderConfig, PriorConfig, UNetConfig, UpsamplerConfig
from pipeline.models.presets import build_decoder, build_prior, build_upsampler
from pipeline.models.scales import KARLO_DECODER, KARLO_PRIOR, KARLO_UPSAMPLER_64_256

FIRST_STEPS, LAST_STEP = "model_first_steps", "model_last_step"
WHITENING = ("z_mean", "z_std")
STATISTICS = "clip_mean", "clip_std"
_RES_BLOCK = {
    "norm_1": "in_layers.0",
    "conv_1": "in_layers.2",
    "emb": "emb_layers.1",
    "norm_2": "out_layers.0",
    "conv_2": "out_layers.3",
    "skip": "skip_connection",
}


def read(folder: Path, model: str) -> Imported:
    """One of Karlo's models.

    Args:
        folder: Holds the files under their published names.
        model: ``prior``, ``decoder`` or ``upsampler_64_256``.

    Raises:
        ConfigError: A file is not there.
        CheckpointError: It holds more than tensors, or other ones; names the keys.
    """
    paths = files(folder, model)
    if model == "prior":
        return prior(paths[0], paths[1], KARLO_PRIOR)
    if model == "decoder":
        return decoder(paths[0], KARLO_DECODER)
    return upsampler(paths[0], KARLO_UPSAMPLER_64_256)


def prior(path: Path, statistics: Path, config: PriorConfig) -> Imported:
    """The prior, with the statistics of raw embeddings that whiten its space."""
    theirs = {**read_state(path), **_read_statistics(statistics)}
    own = meta_state(lambda: build_prior(config))
    state = to_ours(theirs, own, prior_table(config), str(path))
    return Imported(_task("prior", config, "x_start"), state)


def decoder(path: Path, config: DecoderConfig) -> Imported:
    """The decoder; it reads embeddings as they are."""
    own = meta_state(lambda: build_decoder(config))
    mean, std = (own.pop(name) for name in WHITENING)
    state = to_ours(read_state(path), own, decoder_table(config), str(path))
    state |= {"z_mean": torch.zeros(mean.shape), "z_std": torch.ones(std.shape)}
    return Imported(_task("decoder", config, "eps"), state)


def upsampler(path: Path, config: UpsamplerConfig) -> Imported:
    """The upsampler's network of all steps but the fine-tuned last one."""
    found = read_state(path)
    theirs = {name: t for name, t in found.items() if not name.startswith(f"{LAST_STEP}.")}
    left_out = (LAST_STEP,) if len(theirs) < len(found) else ()
    own = meta_state(lambda: build_upsampler(config))
    state = to_ours(theirs, own, unet_table(config.unet, FIRST_STEPS), str(path))
    degradation = BlurConfig().model_dump(mode="json")
    task = {
        **_task("upsampler", config, "eps"),
        "view_px": config.high_px,
        "degradation": degradation,
    }
    return Imported(task, state, left_out)


def _task(kind: str, config: StrictModel, prediction: str) -> dict[str, Any]:
    diffusion = DiffusionConfig.model_validate({"prediction": prediction})
    return {
        "type": kind,
        "model": config.model_dump(mode="json"),
        "diffusion": diffusion.model_dump(mode="json"),
    }


def _read_statistics(path: Path) -> dict[str, Tensor]:
    """Mean and deviation: a pair of tensors, or both by name in a safetensors file."""
    found = read_tensors(path)
    match [found.get(name) for name in STATISTICS] if isinstance(found, dict) else found:
        case [Tensor() as mean, Tensor() as std]:
            return {"clip_mean": mean, "clip_std": std}
    raise CheckpointError(f"{path} holds no pair of tensors, mean and deviation")


def prior_table(config: PriorConfig) -> Table:
    """Where our prior lies in Karlo's."""
    table = {
        "text_proj": at("model.text_enc_proj"),
        "z_txt_proj": at("model.text_emb_proj"),
        "time_embed.linear_1": at("model.time_embed.0"),
        "time_embed.linear_2": at("model.time_embed.2"),
        "z_proj": at("model.clip_img_proj"),
        "query": at("model.prd_emb"),
        "positions": at("model.positional_embedding"),
        "norm_out": at("model.final_ln"),
        "out": at("model.out_proj"),
        **{ours: at(theirs) for ours, theirs in zip(WHITENING, STATISTICS, strict=True)},
    }
    heads = in_turns(3, config.head_width)
    for index in range(config.layers):
        ours, theirs = f"blocks.{index}", f"model.transformer.resblocks.{index}"
        table |= {
            f"{ours}.norm_1": at(f"{theirs}.ln_1"),
            f"{ours}.attention.qkv": at(f"{theirs}.attn.c_qkv", change=heads),
            f"{ours}.attention.out": at(f"{theirs}.attn.c_proj"),
            f"{ours}.norm_2": at(f"{theirs}.ln_2"),
            f"{ours}.up": at(f"{theirs}.mlp.c_fc"),
            f"{ours}.down": at(f"{theirs}.mlp.c_proj"),
        }
    return table


def decoder_table(config: DecoderConfig) -> Table:
    """Where our decoder lies in Karlo's."""
    tokens = in_turns(config.num_image_tokens, 1)
    return {
        "z_img_to_emb": at("model.clip_emb"),
        "z_txt_to_emb": at("model.text_feat_proj"),
        "z_img_to_context": at("model.clip_tok_proj", change=tokens),
        "text_proj": at("model.text_seq_proj.0"),
        "text_norm": at("model.text_seq_proj.1"),
        "null_z": at("model.cf_param"),
        **unet_table(config.unet, "model"),
    }


def unet_table(config: UNetConfig, prefix: str) -> Table:
    """Where our U-Net lies in one of ADM's layout."""
    table = {
        "unet.time_embed.linear_1": at(f"{prefix}.time_embed.0"),
        "unet.time_embed.linear_2": at(f"{prefix}.time_embed.2"),
        "unet.conv_in": at(f"{prefix}.input_blocks.0.0"),
        "unet.norm_out": at(f"{prefix}.out.0"),
        "unet.conv_out": at(f"{prefix}.out.2"),
    }
    ups = 0
    for place in places(config):
        block, part = _block(place, ups, config)
        ups += place.side == "up" and not place.resamples
        table |= _res_block(place.path, f"{prefix}.{block}.{part}")
        table |= _attention(place.path, f"{prefix}.{block}.1", config.head_width)
    last = 2 if config.mid_attention else 1
    table |= _res_block("unet.mid.0", f"{prefix}.middle_block.0")
    table |= _attention("unet.mid.0", f"{prefix}.middle_block.1", config.head_width)
    table |= _res_block("unet.mid.1", f"{prefix}.middle_block.{last}")
    return table


def _block(place: Place, ups: int, config: UNetConfig) -> tuple[str, int]:
    """Their block of a stage, and the place of its residual block there.

    Downwards every stage is a block of its own, behind the first convolution; upwards the one that
    doubles the side shares a block with the stage before it, behind that one's attention.
    """
    if place.side == "down":
        return f"input_blocks.{1 + int(place.path.rpartition('.')[2])}", 0
    if place.resamples:
        return f"output_blocks.{ups - 1}", 2 if place.level in config.attention_levels else 1
    return f"output_blocks.{ups}", 0


def _res_block(path: str, prefix: str) -> Table:
    return {f"{path}.block.{ours}": at(f"{prefix}.{each}") for ours, each in _RES_BLOCK.items()}


def _attention(path: str, prefix: str, head_width: int) -> Table:
    """Projections are convolutions there, with the parts of one head after another."""
    queries, context = (in_turns(n, head_width).then(AS_CONVOLUTION) for n in (3, 2))
    return {
        f"{path}.attention.norm": at(f"{prefix}.norm"),
        f"{path}.attention.qkv": at(f"{prefix}.qkv", change=queries),
        f"{path}.attention.context_kv": at(f"{prefix}.encoder_kv", change=context),
        f"{path}.attention.out": at(f"{prefix}.proj_out", change=AS_CONVOLUTION),
    }
