"""Published weights: one safetensors file that carries its configuration.

Its metadata holds ``config`` (the whole configuration as JSON) and ``stage``; equal tensors and
configuration give equal bytes.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pipeline import storage
from pipeline.errors import CheckpointError

_SAFETENSORS_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def export_weights(
    uri: str, state: Mapping[str, Tensor], config: Mapping[str, Any], stage: str
) -> None:
    """Publish a state dict as safetensors with its configuration inside.

    Args:
        uri: Destination file.
        state: Tensors by name, as ``load_state_dict`` wants them.
        config: The whole JSON configuration that built the model.
        stage: Kind of model, such as ``prior``.
    """
    metadata = {"config": json.dumps(config, sort_keys=True), "stage": stage}
    write_safetensors(uri, state, metadata)


def write_safetensors(uri: str, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Publish tensors; equal tensors and metadata give equal bytes.

    Args:
        uri: Destination file.
        state: Tensors by name.
        metadata: Texts of the file's header.
    """
    tensors = {name: state[name].detach().cpu().contiguous() for name in sorted(state)}
    # The header is written here and not by the library: its metadata order changes from run to run.
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        header[name] = {
            "dtype": _SAFETENSORS_DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with storage.open_for_publish(uri) as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for tensor in tensors.values():
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def load_weights(uri: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read published weights.

    Returns:
        The state dict (on the CPU) and the configuration.

    Raises:
        CheckpointError: Not a safetensors file of ours.
    """
    with _opened(uri) as file:
        config = _config_of(file, uri)
        state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    return state, config


def read_config(uri: str) -> dict[str, Any]:
    """The configuration of published weights, without the weights.

    Raises:
        CheckpointError: Not a safetensors file of ours.
    """
    with _opened(uri) as file:
        return _config_of(file, uri)


@contextmanager
def _opened(uri: str) -> Iterator[Any]:
    with storage.local_copy(uri) as path:
        try:
            with safe_open(path, framework="pt") as file:
                yield file
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{uri}: no readable safetensors file: {error}") from error


def _config_of(file: Any, uri: str) -> dict[str, Any]:  # noqa: ANN401 - safetensors' own class
    metadata = file.metadata() or {}
    if "config" not in metadata:
        raise CheckpointError(
            f"{uri}: no configuration in its metadata; import it as foreign weights"
        )
    return json.loads(metadata["config"])


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict that must fit exactly.

    Args:
        model: The network to fill.
        state: Tensors by name.
        source: Where the tensors come from, for the message.

    Raises:
        CheckpointError: Names the missing, unknown and differently shaped keys.
    """
    check_state(model.state_dict(), state, source)
    model.load_state_dict(dict(state))


def check_state(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    """Compare names and shapes of what was read with those that are wanted.

    Args:
        own: The wanted ones; their numbers do not matter.
        state: What was read.
        source: Where it comes from, for the message.

    Raises:
        CheckpointError: Names the missing, unknown and differently shaped keys.
    """
    findings = {
        "missing": sorted(set(own) - set(state)),
        "unknown": sorted(set(state) - set(own)),
        "of another shape": sorted(
            f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
            for name in set(own) & set(state)
            if state[name].shape != own[name].shape
        ),
    }
    told = [f"{what}: {_some(names)}" for what, names in findings.items() if names]
    if told:
        raise CheckpointError(f"{source} does not fit the model: " + "; ".join(told))


def _some(names: list[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
