r"""Heads: linear or small multi-layer networks that turn an image embedding into one number.

A weights file is a safetensors file with ``layers.<i>.weight`` (out × in) and ``layers.<i>.bias``,
the last layer one row wide, whose metadata states

- ``dim``: dimensions of the embedding;
- ``scale``: ``normalised`` (vectors of length one) or ``raw`` (as CLIP gives them);
- ``activation`` between layers: ``none``, ``relu`` or ``gelu`` (exact); ``output``: ``none`` or
  ``sigmoid``;
- ``calibration``: what the number means, such as ``logit``, ``probability`` or ``1 to 10``;
- ``clip_sha256``, if it shall be refused with any other CLIP: ``clip_sha256`` in the manifest of
  the embeddings.

LAION's aesthetic predictor for ViT-L/14 (a stack of linear layers without activations between them,
on normalised embeddings) becomes such a file with

.. code-block:: python

    state = torch.load("sac+logos+ava1-l14-linearMSE.pth", weights_only=True)
    names = sorted({int(name.split(".")[1]) for name in state})
    layers = [(state[f"layers.{n}.weight"].numpy(), state[f"layers.{n}.bias"].numpy())
              for n in names]
    write_head("aesthetic.safetensors", layers, scale="normalised", activation="none",
               calibration="1 to 10")

Dimension names: ``row``, ``dim``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float16, Float32
from safetensors import SafetensorError
from safetensors.numpy import load, save
from scipy.special import erf, expit

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.identity import fingerprint
from pipeline.selection.config import HeadConfig

SCALES = ("normalised", "raw")
ACTIVATIONS = ("none", "relu", "gelu")
OUTPUTS = ("none", "sigmoid")
STATED = ("dim", "scale", "activation", "output", "calibration")
Layer = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Head:
    """A head as its file states it."""

    layers: tuple[Layer, ...]
    """Weight (out × in) and bias, float32."""
    stated: Mapping[str, str]
    """The file's metadata."""

    def __call__(self, z_img: Float16[np.ndarray, " row dim"]) -> Float32[np.ndarray, " row"]:
        """The head's number for raw image embeddings."""
        x = z_img.astype(np.float32)
        if self.stated["scale"] == "normalised":
            x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.float32(1e-12))
        for index, (weight, bias) in enumerate(self.layers):
            x = (x if index == 0 else self._between(x)) @ weight.T + bias
        found = x[:, 0]
        return expit(found) if self.stated["output"] == "sigmoid" else found

    def _between(self, x: Float32[np.ndarray, " row out"]) -> Float32[np.ndarray, " row out"]:
        kind = self.stated["activation"]
        if kind == "relu":
            return np.maximum(x, np.float32(0))
        if kind == "gelu":
            return x * np.float32(0.5) * (1 + erf(x * np.float32(0.5**0.5)))
        return x


def write_head(
    uri: str,
    layers: Sequence[tuple[Float[np.ndarray, " _ _"], Float[np.ndarray, " _"]]],
    *,
    scale: str,
    activation: str,
    calibration: str,
    output: str = "none",
    clip_sha256: str | None = None,
) -> None:
    """Publish a head.

    Args:
        uri: Destination file.
        layers: Weight (out × in) and bias of each layer; the last has one output.
        scale: ``normalised`` or ``raw``.
        activation: Between layers: ``none``, ``relu`` or ``gelu``.
        calibration: What the number means.
        output: ``none`` or ``sigmoid``.
        clip_sha256: Hash of the CLIP whose embeddings it reads.

    Raises:
        ConfigError: The head would be refused when read.
    """
    tensors = {}
    for index, (weight, bias) in enumerate(layers):
        tensors[f"layers.{index}.weight"] = np.ascontiguousarray(weight, np.float32)
        tensors[f"layers.{index}.bias"] = np.ascontiguousarray(bias, np.float32)
    stated = {"dim": str(layers[0][0].shape[1]), "scale": scale, "activation": activation}
    stated |= {"output": output, "calibration": calibration}
    if clip_sha256 is not None:
        stated["clip_sha256"] = clip_sha256
    _checked(uri, tensors, stated)
    storage.write_bytes(uri, save(tensors, stated))


def read_head(uri: str) -> Head:
    """A published head.

    Raises:
        ConfigError: The file is missing, no safetensors file, or does not state what it must.
    """
    if not storage.exists(uri):
        raise ConfigError(f"head {uri}: no such file; correct the path, or write the file")
    content = storage.read_bytes(uri)
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise ConfigError(
            f"head {uri}: no readable safetensors file ({error}); write it with "
            "pipeline.selection.heads.write_head"
        ) from error
    return _checked(uri, tensors, _metadata(content))


def files_hash(configs: Mapping[str, HeadConfig]) -> str:
    """Identity of all heads: their names and the content of their files.

    Raises:
        ConfigError: A file is missing, or is no head.
    """
    for config in configs.values():
        read_head(config.path)
    return fingerprint({name: storage.sha256_of(each.path) for name, each in configs.items()})


def check_head(name: str, uri: str, dim: int, clip_sha256: str) -> Head:
    """Read a head and hold it against the embeddings it shall read.

    Args:
        name: Where the run file names it.
        uri: Its file.
        dim: Dimensions of the embeddings.
        clip_sha256: Hash of the CLIP that made them.

    Raises:
        ConfigError: It does not fit.
    """
    head = read_head(uri)
    if int(head.stated["dim"]) != dim:
        raise ConfigError(
            f"{name}: {uri} reads {head.stated['dim']} dimensions, the embeddings have "
            f"{dim}; use a head that was trained on this CLIP"
        )
    wanted = head.stated.get("clip_sha256", clip_sha256)
    if wanted != clip_sha256:
        raise ConfigError(
            f"{name}: {uri} was trained on the CLIP {wanted[:12]}…, the embeddings are "
            f"of {clip_sha256[:12]}…; use a head of this CLIP, or embed with that one"
        )
    return head


def _metadata(content: bytes) -> dict[str, str]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]).get("__metadata__", {})


def _checked(uri: str, tensors: Mapping[str, np.ndarray], stated: Mapping[str, str]) -> Head:
    missing = [name for name in STATED if name not in stated]
    if missing:
        raise ConfigError(
            f"head {uri} does not state {', '.join(missing)} in its metadata; write it with "
            "pipeline.selection.heads.write_head"
        )
    for name, allowed in (("scale", SCALES), ("activation", ACTIVATIONS), ("output", OUTPUTS)):
        if stated[name] not in allowed:
            raise ConfigError(
                f"head {uri}: {name}={stated[name]!r} is none of {', '.join(allowed)}; state what "
                "the head was trained with"
            )
    return Head(_layers(uri, tensors, stated["dim"]), stated)


def _layers(uri: str, tensors: Mapping[str, np.ndarray], dim: str) -> tuple[Layer, ...]:
    layers: list[Layer] = []
    width = int(dim) if dim.isdecimal() else 0
    for index in range(max(1, len(tensors) // 2)):
        names = f"layers.{index}.weight", f"layers.{index}.bias"
        missing = [name for name in names if name not in tensors]
        if missing:
            raise ConfigError(
                f"head {uri} lacks {', '.join(missing)}; it has {', '.join(sorted(tensors))}; "
                "number the layers from 0"
            )
        weight, bias = (tensors[name].astype(np.float32) for name in names)
        if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
            raise ConfigError(
                f"head {uri}: {names[0]} {weight.shape} and bias {bias.shape} do not take the "
                f"{width} numbers before them; weights are out × in and dim is that of the first"
            )
        layers.append((weight, bias))
        width = len(weight)
    if width != 1:
        raise ConfigError(f"head {uri} ends in {width} numbers; its last layer must end in 1")
    return tuple(layers)
