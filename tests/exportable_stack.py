"""An untrained stack of unlike sizes that diffusers' pipelines can run, as trainings leave it."""

import json
from pathlib import Path

import torch

from pipeline import storage
from pipeline.models.config import ClipConfig, DecoderConfig, PriorConfig, UpsamplerConfig
from pipeline.models.presets import build_clip, build_decoder, build_prior, build_upsampler
from pipeline.results import INDEX, Result
from tests.tiny_stack import diffusion, generate_config, train_result

DIM, LENGTH = 12, 77
SHAPE = {"embed_dim": DIM, "text_width": DIM, "context_length": LENGTH}
UNET = {
    "channels": 8,
    "multipliers": [1, 2, 3],
    "res_blocks": 2,
    "head_width": 4,
    "norm_groups": 4,
}
PLAIN = {**UNET, "multipliers": [1, 2], "res_blocks": 1, "mid_attention": False}
CLIP = {
    "embed_dim": DIM,
    "vision": {"image_px": 8, "patch_px": 4, "width": 16, "layers": 2, "heads": 2},
    "text": {"width": DIM, "layers": 2, "heads": 3, "context_length": LENGTH},
}
TASKS = {
    "prior": {
        "type": "prior",
        "model": {"clip": SHAPE, "width": 24, "layers": 2, "head_width": 8},
        "diffusion": diffusion("x_start"),
    },
    "decoder": {
        "type": "decoder",
        "model": {
            "clip": SHAPE,
            "image_px": 16,
            "unet": {**UNET, "attention_levels": [1, 2]},
            "context_width": 20,
            "num_image_tokens": 3,
            "learned_variance": True,
        },
        "diffusion": diffusion("eps"),
    },
    "upsampler_16_32": {
        "type": "upsampler",
        "model": {"low_px": 16, "high_px": 32, "unet": PLAIN, "resize": "bicubic"},
        "diffusion": diffusion("x_start"),
        "view_px": 32,
        "crop_px": 8,
        "degradation": {"type": "blur"},
    },
    "upsampler_32_64": {
        "type": "upsampler",
        "model": {"low_px": 32, "high_px": 64, "unet": {**PLAIN, "scale_shift": False}},
        "diffusion": {**diffusion("v"), "schedule": "linear"},
        "view_px": 64,
        "crop_px": 16,
        "degradation": {"type": "bsr"},
    },
}
KINDS = {
    "prior": (PriorConfig, build_prior),
    "decoder": (DecoderConfig, build_decoder),
    "upsampler": (UpsamplerConfig, build_upsampler),
}


def randomised(network):
    """Every number drawn: fresh networks end in zeros and hide whatever stands before."""
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name == "z_std":
                tensor.uniform_(0.5, 2)
            elif name != "logit_scale":
                tensor.normal_(std=0.15)
    return network.eval().requires_grad_(requires_grad=False)


def network_of(task):
    config, build = KINDS[task["type"]]
    return randomised(build(config.model_validate(task["model"])))


def make_run(folder: Path, tasks: dict | None = None, clip: dict = CLIP) -> str:
    """A finished run; ``tasks`` stand in the place of some of ``TASKS``, None leaves one out."""
    torch.manual_seed(0)
    network = randomised(build_clip(ClipConfig.model_validate(clip)))
    results: dict[str, Result] = {
        "clip": train_result(folder, "clip", network, {"type": "clip", "model": clip})
    }
    inputs = {"clip": results["clip"].manifest_hash}
    for name, task in {**TASKS, **(tasks or {})}.items():
        if task is not None:
            used = {} if task["type"] == "upsampler" else inputs
            results[name] = train_result(folder, name, network_of(task), task, used)
    sampling = generate_config(
        prior={"num_steps": 4, "num_candidates": 1},
        decoder={"num_steps": 4, "guidance_scale": 2.0, "sampler": "ddpm"},
        upsamplers=[{"num_steps": 3}, {"num_steps": 2}],
    )
    index = {
        "stages": {name: result.uri.removeprefix(f"{folder}/") for name, result in results.items()},
        "config": {"generate": json.loads(sampling.model_dump_json())},
    }
    storage.write_json(storage.join(str(folder), INDEX), index)
    return str(folder)


def with_model(name: str, **changes) -> dict:
    """One task with other sizes."""
    task = TASKS[name]
    return {name: {**task, "model": {**task["model"], **changes}}}
