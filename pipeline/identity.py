"""What a result is a result of: semantic configuration, a version, and the inputs' manifests.

Two results with the same identity are the same result, whoever made them and wherever. How many
workers ran, on which paths and with which commit, does not enter.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from pipeline import storage
from pipeline.config import semantic

FULL_HASH_LIMIT_BYTES = 1 << 30


def canonical_json(value: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """The one byte form of a JSON value: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def fingerprint(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Hex SHA-256 of a JSON value's canonical form."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def stage_identity(
    stage: str, result_version: int, config: BaseModel, inputs: Mapping[str, str]
) -> str:
    """Identity of a stage's result.

    Args:
        stage: Name of the stage.
        result_version: The stage's ``RESULT_VERSION``, raised when its behaviour changes.
        config: The stage's section; fields named ``execution`` are left out.
        inputs: Manifest hash (or foreign file identity) per input name.
    """
    return fingerprint(
        {
            "stage": stage,
            "result_version": result_version,
            "config": semantic(config),
            "inputs": dict(inputs),
        }
    )


def file_identity(uri: str) -> dict[str, Any]:
    """Identity of a foreign file: name, length, and SHA-256 (of both ends above the limit)."""
    size = storage.size_of(uri)
    name = uri.rsplit("/", 1)[-1]
    if size <= FULL_HASH_LIMIT_BYTES:
        return {"name": name, "num_bytes": size, "sha256": storage.sha256_of(uri)}
    with storage.open_for_read(uri) as file:
        head = file.read(1 << 20)
        file.seek(size - (1 << 20))  # a Parquet footer lies here
        ends = hashlib.sha256(head + file.read()).hexdigest()
    return {"name": name, "num_bytes": size, "sha256_of_ends": ends}
