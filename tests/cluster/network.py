"""Nodes as machines of a network: each in a namespace with an address of its own, on one bridge.

Needs root, or what a container must be given for it (NET_ADMIN, SYS_ADMIN), and Debian's iproute2.
"""

import os
import subprocess


class Network:
    """A bridge of this machine and the namespaces behind it."""

    def __init__(self) -> None:
        """Build the bridge.

        Raises:
            subprocess.CalledProcessError: This user may not.
        """
        number = os.getpid()
        self._name, self._net = f"ut{number}", f"10.213.{number % 250}"
        self.host = f"{self._net}.254"
        """This machine's own address there."""
        self._namespaces: list[str] = []
        _ip(f"link add {self._name} type bridge")
        _ip(f"addr add {self.host}/24 dev {self._name}")
        _ip(f"link set {self._name} up")

    def add(self) -> tuple[str, str]:
        """One more machine: the name of its namespace, and its address."""
        number = len(self._namespaces) + 1
        name, cable = f"{self._name}-{number}", f"{self._name}v{number}"
        _ip(f"netns add {name}")
        self._namespaces.append(name)
        _ip(f"link add {cable} type veth peer name eth0 netns {name}")
        _ip(f"link set {cable} master {self._name} up")
        address = f"{self._net}.{number}"
        _ip(f"-n {name} addr add {address}/24 dev eth0")
        _ip(f"-n {name} link set eth0 up")
        _ip(f"-n {name} link set lo up")
        _ip(f"-n {name} route add default via {self.host}")
        return name, address

    def close(self) -> None:
        """Take all of it down."""
        for name in self._namespaces:
            _ip(f"netns del {name}")
        _ip(f"link del {self._name}")


def _ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True, capture_output=True)


def is_allowed() -> bool:
    """Whether this user may build such a network here."""
    try:
        Network().close()
    except (OSError, subprocess.CalledProcessError):
        return False
    return True
