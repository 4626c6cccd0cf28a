"""No work on a Ray cluster that anybody in its network may command.

A Ray cluster runs whatever it is sent. Without token authentication whoever reaches its port reads
the data, the secrets and the machines (Ray's "ShadowRay", CVE-2023-48022).
"""

import ipaddress
import os
import subprocess
import sys

from pipeline.errors import ConfigError

PROBE_S = 60.0
# Ray reads its authentication once per process, so a process without a token asks.
PROBE = """
import sys
import ray
from ray._raylet import GcsClient
GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None, timeout=20)
print("open")
"""


def refuse_open_cluster(address: str, allowed: bool) -> None:
    """Refuse a cluster beyond this machine that answers a stranger.

    Args:
        address: ``host:port`` of its head.
        allowed: The run file says ``execution.ray.allow_open_cluster: true``.

    Raises:
        ConfigError: It answers without a token.
    """
    if allowed or _is_loopback(address) or not answers_strangers(address):
        return
    raise ConfigError(
        f"the Ray cluster at {address} answers without a token, so that anybody who reaches it may "
        "run anything on it; start it with RAY_AUTH_MODE=token, or, where nobody else can reach "
        "it, say --set execution.ray.allow_open_cluster=true"
    )


def answers_strangers(address: str) -> bool:
    """Whether the cluster's head hands its table of keys to a process without a token."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH_")}
    # Nor the token of the home folder.
    environment |= {"RAY_AUTH_MODE": "disabled", "HOME": os.devnull}
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE, address],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PROBE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.stdout.endswith("open\n")


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
