"""The process group of Ray Train's workers, over the network that joins the nodes.

Gloo alone would ask what this machine's name stands for, and on many machines that is loopback
(Debian writes 127.0.1.1 into ``/etc/hosts``): workers of two machines would never meet.
"""

import os
from dataclasses import dataclass

import psutil
import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

INTERFACE = "GLOO_SOCKET_IFNAME"


@dataclass
class NodesConfig(TorchConfig):
    """Ray's own, but for the network; where ``GLOO_SOCKET_IFNAME`` is set, that one is taken."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What sets the workers up."""
        return _Backend


class _Backend(_TorchBackend):
    def on_start(self, worker_group, backend_config) -> None:  # noqa: ANN001 - Ray's own types
        worker_group.execute(_choose_interface)
        super().on_start(worker_group, backend_config)


def _choose_interface() -> None:
    name = interface_of(ray.util.get_node_ip_address())
    if name is not None:
        os.environ.setdefault(INTERFACE, name)


def interface_of(address: str) -> str | None:
    """The network interface that has an address of this machine; None where none has it."""
    for name, found in psutil.net_if_addrs().items():
        if any(each.address == address for each in found):
            return name
    return None
