"""Begin from trained weights, keep parts as they are, let parts learn more slowly.

Names are matched by prefix, and what does not fit is told name by name before anything is computed.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from pipeline import weights_file
from pipeline.errors import ConfigError
from pipeline.training.config import TrainConfig, WarmStart


def prepared(network: nn.Module, config: TrainConfig, weights_uri: str | None) -> nn.Module:
    """A fresh network with the weights it begins with, its frozen parts marked.

    Args:
        network: As the task built it.
        config: Says what is taken, what is frozen, what learns at another rate.
        weights_uri: The weights file, where the training begins with one.

    Raises:
        ConfigError: A prefix that no name of the network has, or nothing is left to train.
        CheckpointError: Names the missing, unknown and differently shaped tensors.
    """
    names = list(network.state_dict())
    _check_prefixes("frozen", config.frozen, names)
    _check_prefixes("learning_rate_factors", config.learning_rate_factors, names)
    if config.warm_start is not None and weights_uri is not None:
        _check_prefixes("warm_start.fresh", config.warm_start.fresh, names)
        _fill(network, config.warm_start, weights_uri)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and not _under(name, config.frozen))
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ConfigError(f"frozen={list(config.frozen)} leaves nothing to train; name fewer parts")
    return network


def _fill(network: nn.Module, start: WarmStart, uri: str) -> None:
    stored, _ = weights_file.load_weights(uri)
    taken = _renamed(stored, start.taken)
    if not taken:
        raise ConfigError(
            f"warm_start.taken={dict(start.taken)}: no name in {uri} begins like that; its parts "
            f"are {_parts(stored)}"
        )
    for name, value in network.state_dict().items():
        found = taken.get(name)
        if name.startswith("codes.") and found is not None and not torch.equal(value, found):
            raise ConfigError(
                f"warm_start: {name} of {uri} are the codes of other data; an autoregressive prior "
                "begins with weights of its own data alone"
            )
    own = {name: value for name, value in network.state_dict().items() if name not in taken}
    missing = {name: value for name, value in own.items() if not _under(name, start.fresh)}
    wanted = {name: value for name, value in network.state_dict().items() if name not in own}
    weights_file.check_state({**wanted, **missing}, taken, uri)
    network.load_state_dict({**own, **taken})


def _renamed(stored: Mapping[str, Tensor], taken: Mapping[str, str]) -> dict[str, Tensor]:
    """What is taken of a file, by its names in the network; the longest prefix counts."""
    sources: dict[str, str] = {}
    for name in stored:
        prefix = max((p for p in taken if name.startswith(p)), key=len, default=None)
        if prefix is None:
            continue
        target = taken[prefix] + name.removeprefix(prefix)
        if target in sources:
            raise ConfigError(
                f"warm_start.taken={dict(taken)}: {sources[target]} and {name} of the file would "
                f"both become {target}; name fewer prefixes"
            )
        sources[target] = name
    return {target: stored[name] for target, name in sources.items()}


def _under(name: str, prefixes: Iterable[str]) -> bool:
    return any(name.startswith(prefix) for prefix in prefixes)


def _check_prefixes(field: str, prefixes: Iterable[str], names: list[str]) -> None:
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            raise ConfigError(
                f"{field}: no name of the network begins with {prefix!r}; its parts are "
                f"{_parts(names)}"
            )


def _parts(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(name.split(".")[0] for name in names))
