"""A folder of diffusers' unCLIP pipelines as our models: configurations, then weights.

Every key of its JSON files is compared with those that we would write for the configuration that
was found, so that nothing is taken for something else.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from torch import Tensor

from pipeline import storage
from pipeline.config import StrictModel, describe
from pipeline.diffusion.config import BlurConfig, DiffusionConfig
from pipeline.errors import ConfigError
from pipeline.interop.config import UPSAMPLER, sides
from pipeline.interop.diffusers import places, settings, weights
from pipeline.interop.diffusers.settings import Json
from pipeline.interop.foreign_weights import Imported, read_state
from pipeline.models.config import (
    CONTEXT_LENGTH,
    VOCABULARY_SIZE,
    ClipConfig,
    DecoderConfig,
    PriorConfig,
    UpsamplerConfig,
)

Model = TypeVar("Model", bound=StrictModel)
RECORD = "export.json"
_NO_EFFECT = {
    "downsample_padding", "transformer_layers_per_block", "attention_type",
    "addition_embed_type_num_heads", "mid_block_type", "downsample_type", "upsample_type",
    "attn_norm_num_groups",
}  # fmt: skip
"""Keys that say nothing where our own file does not name them: of other kinds of blocks."""
_NAMES_OF_MARKS = ("bos_token_id", "eos_token_id", "pad_token_id")


def read(folder: Path, model: str) -> Imported:
    """One model of a folder.

    Args:
        folder: As ``save_pretrained`` of a pipeline wrote it, or ``jobs.export``.
        model: Name of its stage, such as ``decoder`` or ``upsampler_64_256``.

    Raises:
        ConfigError: A file is missing or our models cannot express a setting; names the key.
        CheckpointError: Weights and settings differ; names the keys.
    """
    if UPSAMPLER.fullmatch(model):
        return _upsampler(folder, model)
    return {"clip": _clip, "prior": _prior, "decoder": _decoder}[model](folder)


def _clip(folder: Path) -> Imported:
    texts, pictures = (_json(folder, part, places.CONFIG) for part in places.COMPONENTS["clip"])
    source, where = f"{folder}/text_encoder", f"{folder}/image_encoder"
    config = _built(
        ClipConfig,
        {
            "embed_dim": _need(texts, "projection_dim", source),
            "quick_gelu": texts.get("hidden_act") == "quick_gelu",
            "text": {
                **_tower(texts, source),
                "context_length": _need(texts, "max_position_embeddings", source),
                "vocab_size": _need(texts, "vocab_size", source),
            },
            "vision": {
                **_tower(pictures, where),
                "image_px": _need(pictures, "image_size", where),
                "patch_px": _need(pictures, "patch_size", where),
            },
        },
        source,
    )
    expected = {**settings.text_encoder_json(config), "vocab_size": VOCABULARY_SIZE}
    _same_where_stated(texts, expected, source)
    _same_where_stated(pictures, settings.image_encoder_json(config), where)
    state = weights.import_clip(_states(folder, "clip"), config, str(folder))
    return Imported({"type": "clip", "model": config.model_dump(mode="json")}, state)


def _tower(found: Json, source: str) -> Json:
    width = _need(found, "hidden_size", source)
    return {
        "width": width,
        "layers": _need(found, "num_hidden_layers", source),
        "heads": _need(found, "num_attention_heads", source),
        "mlp_ratio": _need(found, "intermediate_size", source) / width,
    }


def _prior(folder: Path) -> Imported:
    found, source = _json(folder, "prior", places.CONFIG), f"{folder}/prior"
    head_width, dim = (
        _need(found, name, source) for name in ("attention_head_dim", "embedding_dim")
    )
    length = _need(found, "num_embeddings", source)
    values = {
        "clip": {"embed_dim": dim, "text_width": dim, "context_length": length},
        "width": _need(found, "num_attention_heads", source) * head_width,
        "layers": _need(found, "num_layers", source),
        "head_width": head_width,
        "padding": "last",
    }
    config = _built(PriorConfig, values, source)
    _same(found, settings.prior_json(config), source)
    diffusion = _diffusion(folder, "prior")
    state = weights.import_prior(_states(folder, "prior"), config, source)
    return Imported(_task("prior", config, diffusion), state)


def _decoder(folder: Path) -> Imported:
    found, projections = (_json(folder, part, places.CONFIG) for part in ("decoder", "text_proj"))
    source, where = f"{folder}/decoder", f"{folder}/text_proj"
    theirs = _states(folder, "decoder")
    dim = _need(projections, "clip_embeddings_dim", where)
    values = {
        "clip": {"embed_dim": dim, "text_width": dim, "context_length": _context_length(folder)},
        "image_px": _need(found, "sample_size", source),
        "unet": _unet(found, source),
        "context_width": _need(found, "cross_attention_dim", source),
        "num_image_tokens": _need(projections, "clip_extra_context_tokens", where),
        "learned_variance": not weights.says_least_variance(theirs),
    }
    config = _built(DecoderConfig, values, source)
    _same(found, settings.decoder_json(config), source)
    _same(projections, settings.text_proj_json(config), where)
    diffusion = _diffusion(folder, "decoder")
    state = weights.import_decoder(theirs, config, source)
    return Imported(_task("decoder", config, diffusion), state)


def _upsampler(folder: Path, model: str) -> Imported:
    (component,) = places.components(folder, model)
    found, source = _json(folder, component, places.CONFIG), f"{folder}/{component}"
    (low, high), stated = sides(model), _need(found, "sample_size", source)
    if stated != high:
        raise ConfigError(f"imported.models: {model}, but {source} makes pictures of {stated} px")
    record = _record(folder).get("upsamplers", {}).get(model, {})
    # The pipelines enlarge what their upsampler reads by bicubic.
    resize = record.get("resize", "bicubic")
    values = {"low_px": low, "high_px": high, "unet": _unet(found, source), "resize": resize}
    config = _built(UpsamplerConfig, values, source)
    _same(found, settings.upsampler_json(config), source)
    diffusion = _diffusion(folder, model)
    state = weights.import_upsampler(_states(folder, model), config, component, source)
    degradation = record.get("degradation", BlurConfig().model_dump(mode="json"))
    task = {**_task("upsampler", config, diffusion), "view_px": high, "degradation": degradation}
    return Imported(task, state, _other_last_step(folder, component))


def _other_last_step(folder: Path, component: str) -> tuple[str, ...]:
    """The pipelines' second network, where it is another one than the first."""
    if component != places.SUPER_RES or not (folder / places.LAST_STEP).is_dir():
        return ()
    first, last = (
        storage.sha256_of(str(places.weights_file(folder / name)))
        for name in (places.SUPER_RES, places.LAST_STEP)
    )
    return () if first == last else (places.LAST_STEP,)


def _unet(found: Json, source: str) -> Json:
    widths = _need(found, "block_out_channels", source)
    blocks = _need(found, "down_block_types", source)
    return {
        "channels": widths[0],
        "multipliers": [width / widths[0] for width in widths],
        "res_blocks": _need(found, "layers_per_block", source),
        "attention_levels": [level for level, name in enumerate(blocks) if "Attn" in name],
        "mid_attention": found.get("add_attention", True),
        "head_width": found.get("attention_head_dim", 8),
        "norm_groups": found.get("norm_num_groups", 32),
        "dropout": found.get("dropout", 0.0),
        "scale_shift": found.get("resnet_time_scale_shift") == "scale_shift",
    }


def _diffusion(folder: Path, model: str) -> DiffusionConfig:
    place = places.scheduler(folder, model)
    assert place is not None
    found, source = _json(folder, place, places.SCHEDULER), f"{folder}/{place}"
    values = {
        "num_steps": _need(found, "num_train_timesteps", source),
        "schedule": _ours(settings.SCHEDULES, found, "beta_schedule", source),
        "prediction": _ours(settings.PREDICTIONS, found, "prediction_type", source),
    }
    config = _built(DiffusionConfig, values, source)
    if config.schedule == "linear":
        ends = {name: settings.ddim_json(config)[name] for name in ("beta_start", "beta_end")}
        _same_where_stated(found, ends, source)
    return config


def _ours(words: Mapping[str, str], found: Json, key: str, source: str) -> str:
    theirs = _need(found, key, source)
    ours = [word for word, other in words.items() if other == theirs]
    if not ours:
        raise ConfigError(
            f"{source}: {key}={theirs!r}, our models know {', '.join(words.values())}"
        )
    return ours[0]


def _context_length(folder: Path) -> int:
    path = folder / "text_encoder" / places.CONFIG
    return (
        json.loads(path.read_bytes())["max_position_embeddings"]
        if path.exists()
        else CONTEXT_LENGTH
    )


def _record(folder: Path) -> Json:
    """What ``jobs.export`` says of a folder that it wrote."""
    path = folder / RECORD
    return json.loads(path.read_bytes()) if path.exists() else {}


def _task(kind: str, config: StrictModel, diffusion: DiffusionConfig) -> Json:
    return {
        "type": kind,
        "model": config.model_dump(mode="json"),
        "diffusion": diffusion.model_dump(mode="json"),
    }


def _states(folder: Path, model: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for component in places.components(folder, model):
        state = read_state(places.weights_file(folder / component))
        found |= {f"{component}.{name}": tensor for name, tensor in state.items()}
    return found


def _json(folder: Path, component: str, name: str) -> Json:
    path = folder / component / name
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _need(found: Json, key: str, source: str) -> Any:  # noqa: ANN401 - JSON is any
    if found.get(key) is None:
        raise ConfigError(f"{source}: {key} is missing")
    return found[key]


def _built(kind: type[Model], values: Json, source: str) -> Model:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}: our models cannot be so: {describe(error, kind)}") from error


def _same(found: Json, expected: Json, source: str) -> None:
    """Equal where our file names a key, and nothing set beside it."""
    named = {name: value for name, value in found.items() if not name.startswith("_")}
    beyond = [name for name in named.keys() - expected.keys() - _NO_EFFECT if named[name]]
    _refuse_others(found, expected, [*beyond, *(named.keys() & expected.keys())], source)


def _same_where_stated(found: Json, expected: Json, source: str) -> None:
    """Equal where both files name a key; transformers' files hold much that means nothing here."""
    names = [
        n for n in expected if n in found and n not in _NAMES_OF_MARKS and n != "architectures"
    ]
    _refuse_others(found, expected, names, source)


def _refuse_others(found: Json, expected: Json, names: Iterable[str], source: str) -> None:
    told = [
        f"{name}={found[name]!r}, ours is {expected.get(name)!r}"
        for name in sorted(names)
        if found[name] != expected.get(name)
    ]
    if told:
        raise ConfigError(f"{source} is beyond our models: {'; '.join(told)}")
