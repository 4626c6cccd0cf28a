"""Published weights → networks that belong together, checked before any is used."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from pipeline import storage
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
from pipeline.memory import return_freed_memory
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
from pipeline.weights_file import load_state, load_weights, read_config

Config = TypeVar("Config", bound=StrictModel)
Network = TypeVar("Network", bound=nn.Module)
PRIORS = {
    "prior": PriorConfig,
    "autoregressive_prior": AutoregressivePriorConfig,
    "linear_prior": LinearPriorConfig,
}
"""Kinds of model that may stand as the prior."""
_READS_CLIP = {**PRIORS, "decoder": DecoderConfig}
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
class Published:
    """One weights file, read, and the name by which later stages know its training."""

    uri: str
    state: dict[str, Tensor]
    config: dict[str, Any]
    sha256: str
    manifest_hash: str

    @property
    def kind(self) -> str:
        """``clip``, ``prior``, ``decoder``, ..."""
        return self.config["task"]["type"]

    def model(self, kind: type[Config]) -> Config:
        """Sizes of the network."""
        try:
            return kind.model_validate(self.config["task"]["model"])
        except (KeyError, ValidationError) as error:
            raise CheckpointError(f"{self.uri}: its model is not understood: {error}") from error

    @property
    def diffusion(self) -> DiffusionConfig:
        """The process that it was trained for."""
        try:
            return DiffusionConfig.model_validate(self.config["task"]["diffusion"])
        except (KeyError, ValidationError) as error:
            message = f"{self.uri}: its diffusion is not understood: {error}"
            raise CheckpointError(message) from error


@dataclass(frozen=True)
class StackFiles:
    """The weights files of one unCLIP, which belong together."""

    clip: Published
    prior: Published | None
    decoder: Published
    upsamplers: tuple[Published, ...]

    @property
    def fingerprints(self) -> dict[str, str]:
        """SHA-256 of each, by the name of its stage."""
        named = {"clip": self.clip, "prior": self.prior, "decoder": self.decoder}
        for found in self.upsamplers:
            sizes = found.model(UpsamplerConfig)
            named[f"upsampler_{sizes.low_px}_{sizes.high_px}"] = found
        return {name: found.sha256 for name, found in named.items() if found is not None}


def read_stack(stages: RunStages) -> StackFiles:
    """Read every model and check that prior and decoder stand on this CLIP.

    Raises:
        CheckpointError: Weights are missing, damaged, of another kind, or do not fit together.
    """
    clip = read_published(stages.clip, "clip")
    prior = read_published(stages.prior, *PRIORS) if stages.prior else None
    decoder = read_published(stages.decoder, "decoder")
    upsamplers = tuple(read_published(uri, "upsampler") for uri in stages.upsamplers)
    files = StackFiles(clip, prior, decoder, upsamplers)
    _check_together(files, stages)
    return files


def check_stack(stages: RunStages) -> StackFiles:
    """``read_stack`` by what the files state: no tensor is read, no hash of a file is computed.

    Raises:
        CheckpointError: Weights are missing, of another kind, or do not fit together.
    """
    files = StackFiles(
        _stated(stages.clip, "clip"),
        _stated(stages.prior, *PRIORS) if stages.prior else None,
        _stated(stages.decoder, "decoder"),
        tuple(_stated(uri, "upsampler") for uri in stages.upsamplers),
    )
    _check_together(files, stages)
    return files


def load_stack(stages: RunStages, device: torch.device) -> Stack:
    """Load every model, after ``read_stack``'s checks.

    Raises:
        CheckpointError: Weights are missing, damaged, of another kind, or do not fit together.
    """
    stack = _built(read_stack(stages), device)
    return_freed_memory()  # of the files, which are copied into the networks by now
    return stack


def _built(files: StackFiles, device: torch.device) -> Stack:
    return Stack(
        clip=_clip(files.clip, device),
        prior=None if files.prior is None else _prior(files.prior, device),
        decoder=_decoder(files.decoder, device),
        decoder_process=Process.of(files.decoder.diffusion),
        upsamplers=tuple(
            (
                _filled(Upsampler(found.model(UpsamplerConfig)), found, device),
                Process.of(found.diffusion),
            )
            for found in files.upsamplers
        ),
        fingerprints=files.fingerprints,
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
    found = read_published(stage_uri, "upsampler")
    model = Upsampler(found.model(UpsamplerConfig))
    task = found.config["task"]
    try:
        degradation = TypeAdapter(_Degradation).validate_python(task["degradation"])
        view_px = int(task["view_px"])
    except (KeyError, ValidationError) as error:
        raise CheckpointError(f"{found.uri}: its task is not understood: {error}") from error
    filled = _filled(model, found, device)
    return TrainedUpsampler(filled, Process.of(found.diffusion), degradation, view_px)


def load_clip(stage_uri: str, device: torch.device) -> ClipModel:
    """The CLIP of a training stage, alone.

    Raises:
        CheckpointError: Its weights are missing, damaged or of another kind.
    """
    return _clip(read_published(stage_uri, "clip"), device)


def load_prior(clip_uri: str, prior_uri: str, device: torch.device) -> tuple[ClipModel, Prior]:
    """A prior of any kind, and the CLIP it stands on.

    Raises:
        CheckpointError: Weights are missing, damaged, of another kind, or do not fit together.
    """
    clip, found = read_published(clip_uri, "clip"), read_published(prior_uri, *PRIORS)
    _check_stands_on(found, clip)
    return _clip(clip, device), _prior(found, device)


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
    clip, found = read_published(clip_uri, "clip"), read_published(decoder_uri, "decoder")
    _check_stands_on(found, clip)
    model = _decoder(found, device)
    return TrainedDecoder(_clip(clip, device), model, Process.of(found.diffusion))


def drawn_px(stages: RunStages, num_upsamplers: int) -> int:
    """Side of the pictures that a stack makes with its first upsamplers, pixels.

    Raises:
        CheckpointError: Weights are missing, damaged or of another kind.
    """
    used = stages.upsamplers[:num_upsamplers]
    if used:
        return read_published(used[-1], "upsampler").model(UpsamplerConfig).high_px
    return read_published(stages.decoder, "decoder").model(DecoderConfig).image_px


def _clip(found: Published, device: torch.device) -> ClipModel:
    return _filled(ClipModel(found.model(ClipConfig)), found, device)


def _decoder(found: Published, device: torch.device) -> Decoder:
    return _filled(Decoder(found.model(DecoderConfig)), found, device)


def _prior(found: Published, device: torch.device) -> Prior:
    """The prior of a weights file, whatever its kind."""
    if found.kind == "linear_prior":
        return LinearSampler(_filled(LinearPrior(found.model(LinearPriorConfig)), found, device))
    if found.kind == "prior":
        network = DiffusionPrior(found.model(PriorConfig))
        return DiffusionSampler(_filled(network, found, device), Process.of(found.diffusion))
    config = found.model(AutoregressivePriorConfig)
    codes = AutoregressivePrior(config, _num_components(found))
    return AutoregressiveSampler(_filled(codes, found, device))


def _num_components(found: Published) -> int:
    try:
        return int(found.config["codes"]["num_components"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{found.uri}: it does not say how many codes it has") from error


def read_published(stage_uri: str, *kinds: str) -> Published:
    """The weights that a finished stage left behind.

    Raises:
        CheckpointError: There are none, they are damaged, or of another kind than these.
    """
    uri, sha256, manifest_hash = _weights_of(stage_uri)
    found = storage.sha256_of(uri)
    if found != sha256:
        raise CheckpointError(
            f"{uri}: sha256 {found[:12]}… is not the manifest's {sha256[:12]}…; the file was "
            "changed or damaged: train it again"
        )
    state, config = load_weights(uri)
    _check_kind(uri, config, kinds)
    return Published(uri, state, config, sha256, manifest_hash)


def _stated(stage_uri: str, *kinds: str) -> Published:
    """The same without its tensors, and without reading the whole file."""
    uri, sha256, manifest_hash = _weights_of(stage_uri)
    config = read_config(uri)
    _check_kind(uri, config, kinds)
    return Published(uri, {}, config, sha256, manifest_hash)


def _weights_of(stage_uri: str) -> tuple[str, str, str]:
    """Place and hash of a stage's weights, and the hash of its manifest."""
    result = read_result(stage_uri)
    if result is None or "weights" not in result.content:
        raise CheckpointError(f"{stage_uri} holds no finished training: run its stage to the end")
    entry = result.content["weights"]
    uri = storage.join(stage_uri, entry["name"])
    if not storage.exists(uri):
        raise CheckpointError(f"{uri} does not exist, its manifest names it; train it again")
    return uri, entry["sha256"], result.manifest_hash


def _check_kind(uri: str, config: Mapping[str, Any], kinds: tuple[str, ...]) -> None:
    task = config.get("task")
    found = task.get("type") if isinstance(task, dict) else None
    if found not in kinds:
        raise CheckpointError(f"{uri} holds a model of kind {found}, expected {' or '.join(kinds)}")


def _filled(model: Network, found: Published, device: torch.device) -> Network:
    load_state(model, found.state, found.uri)
    return model.to(device).eval().requires_grad_(requires_grad=False)


def _check_together(files: StackFiles, stages: RunStages) -> None:
    for found in (files.prior, files.decoder):
        if found is not None:
            _check_stands_on(found, files.clip)
    sizes = [found.model(UpsamplerConfig) for found in files.upsamplers]
    _check_sides(files.decoder.model(DecoderConfig), sizes, stages)


def _check_stands_on(found: Published, clip: Published) -> None:
    _check_clip(found, clip)
    real = clip_shape(clip.model(ClipConfig))
    _check_shape(found.model(_READS_CLIP[found.kind]).clip, real, found.uri)


def _check_clip(found: Published, clip: Published) -> None:
    stood_on = found.config.get("inputs", {}).get("clip")
    if stood_on != clip.manifest_hash:
        raise CheckpointError(
            f"{found.uri} was trained on CLIP {str(stood_on)[:12]}…, {clip.uri} is "
            f"{clip.manifest_hash[:12]}…: its embeddings mean nothing to this model; use the CLIP "
            "it was trained on, or train it again"
        )


def _check_shape(shape: ClipShape, real: ClipShape, uri: str) -> None:
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
