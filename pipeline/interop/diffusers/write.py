"""A run's stack as a folder for diffusers' ``UnCLIPPipeline`` and ``UnCLIPImageVariationPipeline``.

One folder serves both: its index names the components of either, and each class takes its own.
Upsamplers beyond the first lie in folders of their own with a DDIM scheduler. ``load.py`` loads all
of it with any version of diffusers; ``export.json`` says what it was made from.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.generation.config import Sampling
from pipeline.generation.weights import Published, StackFiles
from pipeline.interop.diffusers import names, places, settings, weights
from pipeline.interop.diffusers.limits import Exportable, differences
from pipeline.interop.diffusers.tokens import tokenizer_files
from pipeline.interop.new_folder import check_new, new_folder
from pipeline.interop.pairs import State, meta_state
from pipeline.models.presets import build_clip, build_decoder, build_prior, build_upsampler
from pipeline.weights_file import check_state, write_safetensors

TESTED_VERSION = "0.42.1"
MOVED_IN = (0, 38)
"""Version of diffusers that moved ``UnCLIPTextProjModel``."""
SUPER_RES = (places.SUPER_RES, places.LAST_STEP)
"""The pipelines ask for a second network of the last step: here the same one."""
RECORD, LOADER = "export.json", "load.py"


def export(files: StackFiles, sampling: Sampling, output: str, version: str) -> dict[str, Any]:
    """Write the folder; it is there whole or not at all.

    Args:
        files: Published weights that belong together.
        sampling: How the run samples, to say what the pipelines do otherwise.
        output: Local folder that does not exist yet.
        version: Version of diffusers that shall load the folder by ``from_pretrained``.

    Returns:
        What ``export.json`` holds: ``models``, ``upsamplers``, ``differences``, ``diffusers``.

    Raises:
        ConfigError: The folder exists, or the stack cannot be expressed; nothing was written.
        CheckpointError: Weights do not fit their own configuration.
    """
    stack = check(files, output, version)
    record = {
        "models": files.fingerprints,
        "upsamplers": {
            each.name: {
                "resize": each.model.resize,
                "degradation": found.config["task"]["degradation"],
            }
            for each, found in zip(stack.upsamplers, files.upsamplers, strict=True)
        },
        "differences": differences(stack, sampling),
        "diffusers": version,
    }
    with new_folder(output) as folder:
        for component, state in _states(files, stack):
            name = places.WEIGHTS[component.endswith("_encoder")]
            write_safetensors(str(folder / component / name), state, {"format": "pt"})
        for name, content in _small_files(stack, record).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    return record


def check(files: StackFiles, output: str, version: str) -> Exportable:
    """Everything that could refuse the export, before anything is written."""
    check_new(output)
    _numbers(version)
    return Exportable.of(files)


def _states(files: StackFiles, stack: Exportable) -> Iterator[tuple[str, State]]:
    """Every component with weights, one model after another."""
    assert files.prior is not None
    _check(files.clip, meta_state(lambda: build_clip(stack.clip)))
    yield from _components(weights.export_clip(files.clip.state, stack.clip))
    _check(files.prior, meta_state(lambda: build_prior(stack.prior)))
    yield from _components(weights.export_prior(files.prior.state, stack.prior))
    _check(files.decoder, meta_state(lambda: build_decoder(stack.decoder)))
    yield from _components(weights.export_decoder(files.decoder.state, stack.decoder))
    for place, (found, each) in enumerate(zip(files.upsamplers, stack.upsamplers, strict=True)):
        _check(found, meta_state(lambda each=each: build_upsampler(each.model)))
        folders = SUPER_RES if place == 0 else (f"{each.name}/unet",)
        for folder in folders:
            yield from _components(weights.export_upsampler(found.state, each.model, folder))


def _check(found: Published, own: Mapping[str, Tensor]) -> None:
    check_state(own, found.state, found.uri)


def _components(state: State) -> Iterator[tuple[str, State]]:
    """Weights by the folder that their names begin with."""
    for component in sorted({name.split(".")[0] for name in state}):
        prefix = f"{component}."
        yield (
            component,
            {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)},
        )


def _small_files(stack: Exportable, record: Mapping[str, Any]) -> dict[str, bytes]:
    """Every file without weights, by its name in the folder."""
    first = stack.upsamplers[0]
    configs = {
        names.PRIOR: settings.prior_json(stack.prior),
        names.DECODER: settings.decoder_json(stack.decoder),
        names.TEXT_PROJ: settings.text_proj_json(stack.decoder),
        names.TEXT_ENCODER: settings.text_encoder_json(stack.clip),
        names.IMAGE_ENCODER: settings.image_encoder_json(stack.clip),
        **{folder: settings.upsampler_json(first.model) for folder in SUPER_RES},
    }
    small, prior = "fixed_small_log", stack.prior_diffusion
    schedulers = {
        "prior_scheduler": settings.scheduler_json(prior, small, clips=False),
        "decoder_scheduler": settings.scheduler_json(
            stack.decoder_diffusion, "learned_range", clips=True
        ),
        "super_res_scheduler": settings.scheduler_json(first.diffusion, small, clips=True),
    }
    for each in stack.upsamplers[1:]:
        configs[f"{each.name}/unet"] = settings.upsampler_json(each.model)
        schedulers[f"{each.name}/scheduler"] = settings.ddim_json(each.diffusion)
    files = {
        "model_index.json": _json(model_index(str(record["diffusers"]))),
        RECORD: _json(record),
        "feature_extractor/preprocessor_config.json": _json(settings.pictures_json(stack.clip)),
        LOADER: Path(__file__).with_name(LOADER).read_bytes(),
    }
    files |= {f"{name}/config.json": _json(value) for name, value in configs.items()}
    files |= {f"{n}/scheduler_config.json": _json(value) for n, value in schedulers.items()}
    tokens = tokenizer_files(stack.clip.text.context_length)
    return files | {f"tokenizer/{name}": content for name, content in tokens.items()}


def model_index(version: str) -> dict[str, Any]:
    """Which class lies in which folder.

    Versions before 0.38 find ``UnCLIPTextProjModel`` under ``unclip``; since then that entry fails
    to load, and so does the one that their own ``save_pretrained`` writes.
    """
    moved = _numbers(version) >= MOVED_IN
    home = "diffusers.pipelines.deprecated.unclip.text_proj" if moved else "unclip"
    return {
        "_class_name": "UnCLIPPipeline",
        "_diffusers_version": version,
        "prior": ["diffusers", "PriorTransformer"],
        "decoder": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "text_proj": [home, "UnCLIPTextProjModel"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        **{folder: ["diffusers", "UNet2DModel"] for folder in SUPER_RES},
        "prior_scheduler": ["diffusers", "UnCLIPScheduler"],
        "decoder_scheduler": ["diffusers", "UnCLIPScheduler"],
        "super_res_scheduler": ["diffusers", "UnCLIPScheduler"],
    }


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split(".")[:2]
    if len(parts) < 2 or not all(part.isdigit() for part in parts):
        raise ConfigError(f"diffusers version {version!r}: expected one such as {TESTED_VERSION}")
    return tuple(int(part) for part in parts)


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
