"""Published weights → networks that belong together, checked before any is used."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from pipeline import storage
from pipeline.checkpoints import load_state, load_weights
from pipeline.config import StrictModel
from pipeline.diffusion.config import BlurConfig, BsrConfig, DiffusionConfig
from pipeline.diffusion.sampling import Process
from pipeline.errors import CheckpointError
from pipeline.generation.priors import (
    AutoregressiveSampler,
    DiffusionSampler,
    LinearSampler,
    Prior,
)
from pipeline.generation.run_stages import RunStages
from pipeline.models.clip import ClipModel
from pipeline.models.config import (
    AutoregressivePriorConfig,
    ClipConfig,
    ClipShape,
    DecoderConfig,
    LinearPriorConfig,
    PriorConfig,
    UpsamplerConfig,
)
from pipeline.models.decoder import Decoder
from pipeline.models.presets import clip_shape
from pipeline.models.prior import DiffusionPrior
from pipeline.models.prior_ar import AutoregressivePrior
from pipeline.models.prior_linear import LinearPrior
from pipeline.models.upsampler import Upsampler
from pipeline.results import read_result

Config = TypeVar("Config", bound=StrictModel)
Network = TypeVar("Network", bound=nn.Module)
PRIORS = ("prior", "autoregressive_prior", "linear_prior")
"""Kinds of model that may stand as the prior."""
_Degradation = Annotated[BlurConfig | BsrConfig, Field(discriminator="type")]


@dataclass(frozen=True)
class Stack:
    """The networks of one unCLIP, in inference mode, and the processes they were trained for."""

    clip: ClipModel
    prior: Prior | None
    """None where the decoder reads no embedding of a picture."""
    decoder: Decoder
    decoder_process: Process
    upsamplers: tuple[tuple[Upsampler, Process], ...]
    fingerprints: Mapping[str, str]
    """SHA-256 of each weights file, by model."""


@dataclass(frozen=True)
class _Published:
    """One weights file, read, and the name by which later stages know its training."""

    uri: str
    state: dict[str, Tensor]
    config: dict[str, Any]
    sha256: str
    manifest_hash: str


def load_stack(stages: RunStages, device: torch.device) -> Stack:
    """Load every model and check that prior and decoder stand on this CLIP.

    Raises:
        CheckpointError: Weights are missing, damaged, of another kind, or do not fit together.
    """
    clip_file = _read(stages.clip, "clip")
    prior_file = _read(stages.prior, *PRIORS) if stages.prior else None
    decoder_file = _read(stages.decoder, "decoder")
    upsampler_files = [_read(uri, "upsampler") for uri in stages.upsamplers]
    _check_clip(decoder_file, clip_file)
    clip = _clip(clip_file, device)
    decoder = Decoder(_model_config(decoder_file, DecoderConfig))
    _check_shape(decoder.config.clip, clip.config, decoder_file.uri)
    upsamplers = [Upsampler(_model_config(f, UpsamplerConfig)) for f in upsampler_files]
    _check_sides(decoder.config, [part.config for part in upsamplers], stages)
    return Stack(
        clip=clip,
        prior=None if prior_file is None else _prior(prior_file, clip_file, clip.config, device),
        decoder=_filled(decoder, decoder_file, device),
        decoder_process=_process(decoder_file),
        upsamplers=tuple(
            (_filled(part, found, device), _process(found))
            for part, found in zip(upsamplers, upsampler_files, strict=True)
        ),
        fingerprints={
            "clip": clip_file.sha256,
            **({} if prior_file is None else {"prior": prior_file.sha256}),
            "decoder": decoder_file.sha256,
            **_upsampler_fingerprints(upsamplers, upsampler_files),
        },
    )


@dataclass(frozen=True)
class TrainedUpsampler:
    """One upsampler and what it was trained on."""

    model: Upsampler
    process: Process
    degradation: BlurConfig | BsrConfig
    """How the small pictures of its training were spoilt."""
    view_px: int
    """Side of the stored view it was trained on, pixels."""


def load_upsampler(stage_uri: str, device: torch.device) -> TrainedUpsampler:
    """One upsampler alone.

    Raises:
        CheckpointError: Its weights are missing, damaged or of another kind.
    """
    found = _read(stage_uri, "upsampler")
    model = Upsampler(_model_config(found, UpsamplerConfig))
    task = found.config["task"]
    try:
        degradation = TypeAdapter(_Degradation).validate_python(task["degradation"])
        view_px = int(task["view_px"])
    except (KeyError, ValidationError) as error:
        raise CheckpointError(f"{found.uri}: its task is not understood: {error}") from error
    return TrainedUpsampler(_filled(model, found, device), _process(found), degradation, view_px)


def load_clip(stage_uri: str, device: torch.device) -> ClipModel:
    """The CLIP of a training stage, alone.

    Raises:
        CheckpointError: Its weights are missing, damaged or of another kind.
    """
    return _clip(_read(stage_uri, "clip"), device)


def load_prior(clip_uri: str, prior_uri: str, device: torch.device) -> tuple[ClipModel, Prior]:
    """A prior of any kind, and the CLIP it stands on.

    Raises:
        CheckpointError: Weights are missing, damaged, of another kind, or do not fit together.
    """
    clip_file = _read(clip_uri, "clip")
    clip = _clip(clip_file, device)
    return clip, _prior(_read(prior_uri, *PRIORS), clip_file, clip.config, device)


@dataclass(frozen=True)
class TrainedDecoder:
    """One decoder, the CLIP it stands on, and the process it was trained for."""

    clip: ClipModel
    model: Decoder
    process: Process


def load_decoder(clip_uri: str, decoder_uri: str, device: torch.device) -> TrainedDecoder:
    """A decoder and the CLIP it stands on.

    Raises:
        CheckpointError: Weights are missing, damaged, of another kind, or do not fit together.
    """
    clip_file, found = _read(clip_uri, "clip"), _read(decoder_uri, "decoder")
    _check_clip(found, clip_file)
    clip, model = _clip(clip_file, device), Decoder(_model_config(found, DecoderConfig))
    _check_shape(model.config.clip, clip.config, found.uri)
    return TrainedDecoder(clip, _filled(model, found, device), _process(found))


def _clip(found: _Published, device: torch.device) -> ClipModel:
    return _filled(ClipModel(_model_config(found, ClipConfig)), found, device)


def _prior(
    found: _Published, clip_file: _Published, clip: ClipConfig, device: torch.device
) -> Prior:
    """The prior of a weights file, whatever its kind, which must stand on this CLIP."""
    _check_clip(found, clip_file)
    kind = found.config["task"]["type"]
    if kind == "linear_prior":
        linear = LinearPrior(_model_config(found, LinearPriorConfig))
        prior: Prior = LinearSampler(_filled(linear, found, device))
    elif kind == "prior":
        network = DiffusionPrior(_model_config(found, PriorConfig))
        prior = DiffusionSampler(_filled(network, found, device), _process(found))
    else:
        config = _model_config(found, AutoregressivePriorConfig)
        codes = AutoregressivePrior(config, _num_components(found))
        prior = AutoregressiveSampler(_filled(codes, found, device))
    _check_shape(prior.clip, clip, found.uri)
    return prior


def _num_components(found: _Published) -> int:
    try:
        return int(found.config["codes"]["num_components"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{found.uri}: it does not say how many codes it has") from error


def _read(stage_uri: str, *kinds: str) -> _Published:
    result = read_result(stage_uri)
    if result is None or "weights" not in result.content:
        raise CheckpointError(f"{stage_uri} holds no finished training: run its stage to the end")
    entry = result.content["weights"]
    uri = storage.join(stage_uri, entry["name"])
    if not storage.exists(uri):
        raise CheckpointError(f"{uri} does not exist, its manifest names it; train it again")
    sha256 = storage.sha256_of(uri)
    if sha256 != entry["sha256"]:
        raise CheckpointError(
            f"{uri}: sha256 {sha256[:12]}… is not the manifest's {entry['sha256'][:12]}…; the file "
            "was changed or damaged: train it again"
        )
    state, config = load_weights(uri)
    task = config.get("task")
    found = task.get("type") if isinstance(task, dict) else None
    if found not in kinds:
        raise CheckpointError(f"{uri} holds a model of kind {found}, expected {' or '.join(kinds)}")
    return _Published(uri, state, config, sha256, result.manifest_hash)


def _model_config(found: _Published, kind: type[Config]) -> Config:
    try:
        return kind.model_validate(found.config["task"]["model"])
    except (KeyError, ValidationError) as error:
        raise CheckpointError(f"{found.uri}: its model is not understood: {error}") from error


def _process(found: _Published) -> Process:
    try:
        return Process.of(DiffusionConfig.model_validate(found.config["task"]["diffusion"]))
    except (KeyError, ValidationError) as error:
        raise CheckpointError(f"{found.uri}: its diffusion is not understood: {error}") from error


def _filled(model: Network, found: _Published, device: torch.device) -> Network:
    load_state(model, found.state, found.uri)
    return model.to(device).eval().requires_grad_(requires_grad=False)


def _check_clip(found: _Published, clip: _Published) -> None:
    stood_on = found.config.get("inputs", {}).get("clip")
    if stood_on != clip.manifest_hash:
        raise CheckpointError(
            f"{found.uri} was trained on CLIP {str(stood_on)[:12]}…, {clip.uri} is "
            f"{clip.manifest_hash[:12]}…: its embeddings mean nothing to this model; use the CLIP "
            "it was trained on, or train it again"
        )


def _check_shape(shape: ClipShape, clip: ClipConfig, uri: str) -> None:
    real = clip_shape(clip)
    if shape != real:
        raise CheckpointError(f"{uri} expects a CLIP of {shape!r}, this one is {real!r}")


def _check_sides(
    decoder: DecoderConfig, upsamplers: list[UpsamplerConfig], stages: RunStages
) -> None:
    side = decoder.image_px
    for config, uri in zip(upsamplers, stages.upsamplers, strict=True):
        if config.low_px != side:
            raise CheckpointError(
                f"{uri} reads pictures of {config.low_px} px, the model before it makes {side} px"
            )
        side = config.high_px


def _upsampler_fingerprints(upsamplers: list[Upsampler], files: list[_Published]) -> dict[str, str]:
    return {
        f"upsampler_{part.config.low_px}_{part.config.high_px}": found.sha256
        for part, found in zip(upsamplers, files, strict=True)
    }
