"""Our weights under the names of diffusers and transformers.

Names begin with the component's folder: ``decoder.conv_in.weight``. Modules are the same functions
on both sides; where we fuse projections or order rows otherwise, the table says so.
"""

from collections.abc import Iterator

from pipeline.interop.pairs import AS_ROW, TRANSPOSED, Table, Theirs, at, in_turns
from pipeline.interop.unet_places import Place, places
from pipeline.models.config import (
    ClipConfig,
    DecoderConfig,
    PriorConfig,
    UNetConfig,
    VisionTowerConfig,
)

_RES_BLOCK = {
    "norm_1": "norm1",
    "conv_1": "conv1",
    "emb": "time_emb_proj",
    "norm_2": "norm2",
    "conv_2": "conv2",
    "skip": "conv_shortcut",
}
_TOWER_BLOCK = {
    "ln_1": "layer_norm1",
    "attn.out_proj": "self_attn.out_proj",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
PRIOR, DECODER, TEXT_PROJ = "prior", "decoder", "text_proj"
TEXT_ENCODER, IMAGE_ENCODER = "text_encoder", "image_encoder"


def prior_table(config: PriorConfig) -> Table:
    """``PriorTransformer``."""
    table = {
        "text_proj": at("encoder_hidden_states_proj"),
        "z_txt_proj": at("embedding_proj"),
        "time_embed.linear_1": at("time_embedding.linear_1"),
        "time_embed.linear_2": at("time_embedding.linear_2"),
        "z_proj": at("proj_in"),
        "query": at("prd_embedding"),
        "positions": at("positional_embedding"),
        "norm_out": at("norm_out"),
        "out": at("proj_to_clip_embeddings"),
        "z_mean": at("clip_mean", change=AS_ROW),
        "z_std": at("clip_std", change=AS_ROW),
    }
    for index in range(config.layers):
        ours, theirs = f"blocks.{index}", f"transformer_blocks.{index}"
        table |= {
            f"{ours}.norm_1": at(f"{theirs}.norm1"),
            f"{ours}.attention.qkv": _several(f"{theirs}.attn1", "to_q", "to_k", "to_v"),
            f"{ours}.attention.out": at(f"{theirs}.attn1.to_out.0"),
            f"{ours}.norm_2": at(f"{theirs}.norm3"),
            f"{ours}.up": at(f"{theirs}.ff.net.0.proj"),
            f"{ours}.down": at(f"{theirs}.ff.net.2"),
        }
    return _inside(PRIOR, table)


def decoder_table(config: DecoderConfig) -> Table:
    """``UNet2DConditionModel`` and ``UnCLIPTextProjModel``; the whitening is no part of it."""
    tokens = in_turns(config.num_image_tokens, 1)
    projections = {
        "z_img_to_emb": at("clip_image_embeddings_project_to_time_embeddings"),
        "z_txt_to_emb": at("embedding_proj"),
        "z_img_to_context": at("clip_extra_context_tokens_proj", change=tokens),
        "text_proj": at("encoder_hidden_states_proj"),
        "text_norm": at("text_encoder_hidden_states_norm"),
        "null_z": at("learned_classifier_free_guidance_embeddings"),
    }
    return {**_inside(TEXT_PROJ, projections), **unet_table(config.unet, DECODER)}


def unet_table(config: UNetConfig, component: str) -> Table:
    """``UNet2DConditionModel`` or ``UNet2DModel``: their modules have the same names."""
    table = {
        "unet.time_embed.linear_1": at("time_embedding.linear_1"),
        "unet.time_embed.linear_2": at("time_embedding.linear_2"),
        "unet.conv_in": at("conv_in"),
        "unet.norm_out": at("conv_norm_out"),
        "unet.conv_out": at("conv_out"),
    }
    for place in places(config):
        table |= _stage(place.path, *_stage_names(place, len(config.multipliers)))
    table |= _stage("unet.mid.0", "mid_block.resnets.0", "mid_block.attentions.0")
    table |= _stage("unet.mid.1", "mid_block.resnets.1", None)
    return _inside(component, table)


def _stage_names(place: Place, num_levels: int) -> tuple[str, str | None]:
    """Their residual block and, where the stage attends, their attention."""
    block = place.level if place.side == "down" else num_levels - 1 - place.level
    prefix = f"{place.side}_blocks.{block}"
    if place.resamples:
        return f"{prefix}.{place.side}samplers.0", None
    attention = f"{prefix}.attentions.{place.index}" if place.attends else None
    return f"{prefix}.resnets.{place.index}", attention


def _stage(path: str, block: str, attention: str | None) -> dict[str, Theirs]:
    table = {f"{path}.block.{ours}": at(f"{block}.{each}") for ours, each in _RES_BLOCK.items()}
    if attention is not None:
        table |= {
            f"{path}.attention.norm": at(f"{attention}.group_norm"),
            f"{path}.attention.qkv": _several(attention, "to_q", "to_k", "to_v"),
            f"{path}.attention.context_kv": _several(attention, "add_k_proj", "add_v_proj"),
            f"{path}.attention.out": at(f"{attention}.to_out.0"),
        }
    return table


def clip_table(config: ClipConfig) -> Table:
    """``CLIPTextModelWithProjection`` and ``CLIPVisionModelWithProjection``, no temperature."""
    assert isinstance(config.vision, VisionTowerConfig)  # others are refused before
    text, vision = f"{TEXT_ENCODER}.text_model", f"{IMAGE_ENCODER}.vision_model"
    table = {
        "token_embedding": at(f"{text}.embeddings.token_embedding"),
        "positional_embedding": at(f"{text}.embeddings.position_embedding.weight"),
        "ln_final": at(f"{text}.final_layer_norm"),
        "text_projection": at(f"{TEXT_ENCODER}.text_projection.weight", change=TRANSPOSED),
        "visual.conv1": at(f"{vision}.embeddings.patch_embedding"),
        "visual.class_embedding": at(f"{vision}.embeddings.class_embedding"),
        "visual.positional_embedding": at(f"{vision}.embeddings.position_embedding.weight"),
        "visual.ln_pre": at(f"{vision}.pre_layrnorm"),  # as they spell it
        "visual.ln_post": at(f"{vision}.post_layernorm"),
        "visual.proj": at(f"{IMAGE_ENCODER}.visual_projection.weight", change=TRANSPOSED),
    }
    for ours, theirs, layers in (
        ("transformer", text, config.text.layers),
        ("visual.transformer", vision, config.vision.layers),
    ):
        for index in range(layers):
            table |= dict(
                _tower_block(f"{ours}.resblocks.{index}", f"{theirs}.encoder.layers.{index}")
            )
    return table


def _tower_block(ours: str, theirs: str) -> Iterator[tuple[str, Theirs]]:
    for name, each in _TOWER_BLOCK.items():
        yield f"{ours}.{name}", at(f"{theirs}.{each}")
    for leaf in ("weight", "bias"):
        projections = (f"{theirs}.self_attn.{each}_proj.{leaf}" for each in "qkv")
        yield f"{ours}.attn.in_proj_{leaf}", at(*projections)


def _several(prefix: str, *names: str) -> Theirs:
    return at(*(f"{prefix}.{name}" for name in names))


def _inside(component: str, table: Table) -> dict[str, Theirs]:
    return {
        ours: Theirs(tuple(f"{component}.{name}" for name in theirs.names), theirs.change)
        for ours, theirs in table.items()
    }
