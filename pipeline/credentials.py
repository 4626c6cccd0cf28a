"""Secrets come by the machines' environment or by files, never by what is written down or stored.

What a run file says stands in manifests, in MLflow and in the run's index; what a submission sets
in ``env_vars`` Ray hands to everybody who may ask for the job.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.errors import ConfigError

SUBMISSION = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray for the driver of a submitted job."""
WITH_USER = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s@]*@", re.IGNORECASE)
"""An address that begins with a user's name, and perhaps a password."""
SECRET_WORDS = frozenset({"KEY", "APIKEY", "PASSPHRASE", "PASSWD", "PASSWORD", "SECRET", "TOKEN"})
PLACE_WORDS = frozenset({"FILE", "MODE", "NAME", "PATH"})
"""Endings of variables that say where a secret is, or how it is used."""


def refuse_in_run_file(values: Mapping[str, Any], source: str) -> None:
    """Refuse addresses with a user name in them, without repeating them.

    Args:
        values: A run file's mapping.
        source: Where it came from.

    Raises:
        ConfigError: A value is such an address.
    """
    for place, value in _texts(values):
        if WITH_USER.match(value):
            raise ConfigError(
                f"{source}: {place} holds an address with a user name, which manifests and MLflow "
                "would repeat; leave it out and give name and password by the environment, such "
                "as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )


def refuse_in_submission(environment: Mapping[str, str]) -> None:
    """Refuse a submission whose ``env_vars`` hold a secret: Ray shows them to whoever may ask.

    Args:
        environment: Of this process.

    Raises:
        ConfigError: A variable is called as secrets are, or its value is an address with a user
            name.
    """
    given = submitted_variables(environment)
    found = sorted(name for name, value in given.items() if value and _is_secret(name, str(value)))
    if found:
        raise ConfigError(
            f"env_vars of this submission hold {', '.join(found)}, and anybody who may ask for the "
            "job reads them; set them in the environment of the cluster's machines (from a Secret, "
            "say), or name a file that only you can read"
        )


def submitted_variables(environment: Mapping[str, str]) -> dict[str, Any]:
    """The ``env_vars`` of the submission that started this process; none where none did."""
    config = json.loads(environment.get(SUBMISSION) or "{}")
    return (config.get("runtime_env") or {}).get("env_vars") or {}


def _is_secret(name: str, value: str) -> bool:
    words = name.upper().split("_")
    is_called_so = bool(SECRET_WORDS & set(words)) and words[-1] not in PLACE_WORDS
    return is_called_so or WITH_USER.match(value) is not None


def _texts(value: Any, place: str = "") -> Iterator[tuple[str, str]]:  # noqa: ANN401 - YAML
    """Every text in nested mappings and lists, with its dotted place."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping | list):
        named = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, inner in named:
            yield from _texts(inner, f"{place}.{name}" if place else str(name))
