"""An untrained stack small enough for unit tests, published as the training stages publish."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from pipeline import storage
from pipeline.generation.config import GenerateConfig
from pipeline.models.config import ClipConfig, DecoderConfig, PriorConfig, UpsamplerConfig
from pipeline.models.presets import (
    build_clip,
    build_decoder,
    build_prior,
    build_upsampler,
    num_parameters,
)
from pipeline.results import INDEX, Result
from pipeline.weights_file import export_weights
from tests.synthetic import DIM, publish

CLIP_SHAPE = {"embed_dim": DIM, "text_width": 8}
UNET = {"channels": 8, "multipliers": [1, 2], "res_blocks": 1, "head_width": 8, "norm_groups": 4}
CLIP = {
    "embed_dim": DIM,
    "vision": {"image_px": 8, "patch_px": 4, "width": 8, "layers": 1, "heads": 2},
    "text": {"width": 8, "layers": 1, "heads": 2},
}
PRIOR = {"clip": CLIP_SHAPE, "width": 16, "layers": 1, "head_width": 8}
DECODER = {"clip": CLIP_SHAPE, "image_px": 8, "unet": UNET, "context_width": 8}
UPSAMPLER = {"low_px": 8, "high_px": 16, "unet": {**UNET, "mid_attention": False}}
DECODER_SIDE, FINAL_SIDE = 8, 16


def diffusion(prediction: str) -> dict:
    return {"num_steps": 20, "schedule": "cosine", "prediction": prediction}


def make_stack(folder: Path, seed: int = 0) -> dict[str, Result]:
    """Results of ``clip, prior, decoder, upsampler_8_16`` with random weights."""
    torch.manual_seed(seed)
    clip_task = {"type": "clip", "model": CLIP}
    network = build_clip(ClipConfig.model_validate(CLIP))
    clip = train_result(folder, "clip", network, clip_task, stated=True)
    inputs = {"clip": clip.manifest_hash}
    networks = {
        "prior": (build_prior(PriorConfig.model_validate(PRIOR)), PRIOR, "x_start", {}),
        "decoder": (
            build_decoder(DecoderConfig.model_validate(DECODER)),
            DECODER,
            "eps",
            {"view_px": 16},
        ),
        "upsampler_8_16": (
            build_upsampler(UpsamplerConfig.model_validate(UPSAMPLER)),
            UPSAMPLER,
            "x_start",
            {"view_px": 16, "crop_px": 8, "degradation": {"type": "blur"}},
        ),
    }
    results = {"clip": clip}
    for name, (network, model, prediction, more) in networks.items():
        kind = name.split("_")[0]
        # Fresh networks end in zeros; random ones make the pictures depend on every input.
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        task = {"type": kind, "model": model, "diffusion": diffusion(prediction), **more}
        used = {} if kind == "upsampler" else inputs
        results[name] = train_result(folder, name, network, task, used, stated=True)
    return results


def train_result(folder, name, network, task, inputs=None, more=None, stated=False) -> Result:
    """What a training stage leaves behind; ``stated``: its manifest holds its settings too."""
    uri = str(folder / name / "000000000000")
    weights = storage.join(uri, "weights.safetensors")
    config = {"task": task, "inputs": inputs or {}, **(more or {})}
    export_weights(weights, network.state_dict(), config, task["type"])
    entry = {
        "name": "weights.safetensors",
        "sha256": storage.sha256_of(weights),
        "num_bytes": storage.size_of(weights),
    }
    content = {"weights": entry, "num_parameters": num_parameters(network), "samples": 0}
    return publish(uri, name, content, config if stated else {})


def with_clip(embedded: Result, clip: Result) -> Result:
    """Synthetic embeddings that claim to be of this CLIP."""
    content = {**embedded.content, "clip_sha256": clip.content["weights"]["sha256"]}
    return replace(embedded, manifest={**embedded.manifest, "content": content})


def generate_config(**changes) -> GenerateConfig:
    values = {
        "prompts": {"type": "inline", "texts": ["a red circle", "a blue square"]},
        "num_pictures": 4,
        "seed": 3,
        "prior": {"num_steps": 3},
        "decoder": {"num_steps": 3, "guidance_scale": 2.0},
        "upsamplers": [{"num_steps": 2}],
        "ablations": {"num_pictures": 3},
        "pictures_per_shard": 3,
        "batch_size": 2,
    }
    return GenerateConfig.model_validate(values | changes)


def make_run(folder: Path, seed: int = 0) -> str:
    """A run folder with its index."""
    results = make_stack(folder, seed)
    places = {name: result.uri.removeprefix(f"{folder}/") for name, result in results.items()}
    config = json.loads(generate_config().model_dump_json())
    index = {"stages": places, "config": {"generate": config}}
    storage.write_json(storage.join(str(folder), INDEX), index)
    return str(folder)
