"""Our configurations as the JSON files of diffusers and transformers.

What is written holds every key on which the function depends, so that reading can write the file
of the configuration it found and compare: whatever our models cannot express shows as a key.
"""

from typing import Any, Literal

from pipeline.diffusion.config import DiffusionConfig
from pipeline.models.clip import MEAN, STD
from pipeline.models.config import (
    VOCABULARY_SIZE,
    ClipConfig,
    DecoderConfig,
    PriorConfig,
    TextTowerConfig,
    UNetConfig,
    UpsamplerConfig,
    VisionTowerConfig,
)

Json = dict[str, Any]
Variance = Literal["fixed_small_log", "learned_range"]
PREDICTIONS = {"eps": "epsilon", "x_start": "sample", "v": "v_prediction"}
"""Our words and theirs."""
SCHEDULES = {"cosine": "squaredcos_cap_v2", "linear": "linear"}
NUM_EXTRA_TOKENS = 4


def prior_json(config: PriorConfig) -> Json:
    """``PriorTransformer``."""
    return {
        "_class_name": "PriorTransformer",
        "num_attention_heads": config.width // config.head_width,
        "attention_head_dim": config.head_width,
        "num_layers": config.layers,
        "embedding_dim": config.clip.embed_dim,
        "num_embeddings": config.clip.context_length,
        "additional_embeddings": NUM_EXTRA_TOKENS,
        "dropout": 0.0,
        "time_embed_act_fn": "silu",
        "norm_in_type": None,
        "embedding_proj_norm_type": None,
        "encoder_hid_proj_type": "linear",
        "added_emb_type": "prd",
        "time_embed_dim": None,
        "embedding_proj_dim": None,
        "clip_embed_dim": None,
    }


def _unet_json(config: UNetConfig) -> Json:
    """What both kinds of U-Net state."""
    return {
        "center_input_sample": False,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "time_embedding_type": "positional",
        "block_out_channels": [config.channels * each for each in config.multipliers],
        "layers_per_block": config.res_blocks,
        "mid_block_scale_factor": 1,
        "dropout": config.dropout,
        "act_fn": "silu",
        "attention_head_dim": config.head_width,
        "norm_num_groups": config.norm_groups,
        "norm_eps": 1e-5,
        "resnet_time_scale_shift": "scale_shift" if config.scale_shift else "default",
    }


def decoder_json(config: DecoderConfig) -> Json:
    """``UNet2DConditionModel``; always with the channels of a variance, as its pipelines want."""
    levels = range(len(config.unet.multipliers))
    attends = [level in config.unet.attention_levels for level in levels]
    names = {True: "SimpleCrossAttn{}Block2D", False: "Resnet{}Block2D"}
    words = {True: ("Down", "Up"), False: ("Downsample", "Upsample")}
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": config.image_px,
        "in_channels": 3,
        "out_channels": 6,
        **_unet_json(config.unet),
        "down_block_types": [names[each].format(words[each][0]) for each in attends],
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": [names[each].format(words[each][1]) for each in reversed(attends)],
        "cross_attention_dim": config.context_width,
        "class_embed_type": "identity",
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "resnet_out_scale_factor": 1.0,
    }


def text_proj_json(config: DecoderConfig) -> Json:
    """``UnCLIPTextProjModel``."""
    return {
        "_class_name": "UnCLIPTextProjModel",
        "clip_extra_context_tokens": config.num_image_tokens,
        "clip_embeddings_dim": config.clip.embed_dim,
        "time_embed_dim": 4 * config.unet.channels,
        "cross_attention_dim": config.context_width,
    }


def upsampler_json(config: UpsamplerConfig) -> Json:
    """``UNet2DModel``; where levels attend, with its resampling by residual blocks."""
    levels = range(len(config.unet.multipliers))
    attends = [level in config.unet.attention_levels for level in levels]
    down = {True: "AttnDownBlock2D", False: "ResnetDownsampleBlock2D"}
    up = {True: "AttnUpBlock2D", False: "ResnetUpsampleBlock2D"}
    resampling = {"downsample_type": "resnet", "upsample_type": "resnet"}
    middle = {"attn_norm_num_groups": config.unet.norm_groups}
    return {
        "_class_name": "UNet2DModel",
        "sample_size": config.high_px,
        "in_channels": 6,
        "out_channels": 3,
        **_unet_json(config.unet),
        "down_block_types": [down[each] for each in attends],
        "up_block_types": [up[each] for each in reversed(attends)],
        **(resampling if any(attends) else {}),
        "add_attention": config.unet.mid_attention,
        **(middle if config.unet.mid_attention else {}),
        "class_embed_type": None,
    }


def scheduler_json(diffusion: DiffusionConfig, variance: Variance, *, clips: bool) -> Json:
    """``UnCLIPScheduler``: ancestral sampling; ``clips`` keeps clean pictures in [-1, 1]."""
    return {
        "_class_name": "UnCLIPScheduler",
        "num_train_timesteps": diffusion.num_steps,
        "variance_type": variance,
        "clip_sample": clips,
        "clip_sample_range": 1.0,
        "prediction_type": PREDICTIONS[diffusion.prediction],
        "beta_schedule": SCHEDULES[diffusion.schedule],
    }


def ddim_json(diffusion: DiffusionConfig) -> Json:
    """``DDIMScheduler``; only this spacing of its steps agrees with the moves that it makes."""
    scale = 1000 / diffusion.num_steps
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": diffusion.num_steps,
        "beta_schedule": SCHEDULES[diffusion.schedule],
        "beta_start": 1e-4 * scale,
        "beta_end": 0.02 * scale,
        "prediction_type": PREDICTIONS[diffusion.prediction],
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "timestep_spacing": "trailing",
    }


def _tower_json(config: TextTowerConfig | VisionTowerConfig, clip: ClipConfig) -> Json:
    return {
        "hidden_size": config.width,
        "intermediate_size": int(config.width * config.mlp_ratio),
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "hidden_act": "quick_gelu" if clip.quick_gelu else "gelu",
        "layer_norm_eps": 1e-5,
        "projection_dim": clip.embed_dim,
    }


def text_encoder_json(config: ClipConfig) -> Json:
    """``CLIPTextModelWithProjection``."""
    return {
        "architectures": ["CLIPTextModelWithProjection"],
        "model_type": "clip_text_model",
        **_tower_json(config.text, config),
        "max_position_embeddings": config.text.context_length,
        "vocab_size": config.text.vocab_size,
        "bos_token_id": VOCABULARY_SIZE - 2,
        "eos_token_id": VOCABULARY_SIZE - 1,
        "pad_token_id": VOCABULARY_SIZE - 1,
    }


def image_encoder_json(config: ClipConfig) -> Json:
    """``CLIPVisionModelWithProjection``."""
    assert isinstance(config.vision, VisionTowerConfig)  # others are refused before
    return {
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
        **_tower_json(config.vision, config),
        "image_size": config.vision.image_px,
        "patch_size": config.vision.patch_px,
        "num_channels": 3,
    }


def pictures_json(config: ClipConfig) -> Json:
    """``CLIPImageProcessor``: the shorter side scaled, the centre cut out, CLIP's statistics."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": config.vision.image_px},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": config.vision.image_px, "width": config.vision.image_px},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }
