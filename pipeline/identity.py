"""What a result is a result of: semantic configuration, a version, and the inputs' manifests.

Two results with the same identity are the same result, whoever made them and wherever. How many
workers ran, on which paths and with which commit, does not enter.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
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


def files_identity(uris: Sequence[str]) -> list[dict[str, Any]]:
    """Identity of foreign files: name, length, and SHA-256; where they lie does not enter.

    Files of up to ``FULL_HASH_LIMIT_BYTES`` together are hashed whole, of more both ends of each. A
    file that has not changed is read once per process.

    Args:
        uris: The files, in the order that matters.
    """
    states = [_state(uri) for uri in uris]
    read_whole = sum(num_bytes for num_bytes, _ in states) <= FULL_HASH_LIMIT_BYTES
    pairs = zip(uris, states, strict=True)
    return [dict(_file_identity(uri, *state, read_whole=read_whole)) for uri, state in pairs]


def _state(uri: str) -> tuple[int, int]:
    """Length and, where it is known, time of change: what tells a file from its former self."""
    changed_ns = storage.local_path(uri).stat().st_mtime_ns if storage.is_local(uri) else 0
    return storage.size_of(uri), changed_ns


@lru_cache(maxsize=100_000)
def _file_identity(uri: str, size: int, changed_ns: int, *, read_whole: bool) -> dict[str, Any]:
    del changed_ns  # part of the cache's key
    name = uri.rsplit("/", 1)[-1]
    if read_whole:
        return {"name": name, "num_bytes": size, "sha256": storage.sha256_of(uri)}
    with storage.open_for_read(uri) as file:
        head = file.read(1 << 20)
        file.seek(max(0, size - (1 << 20)))  # a Parquet footer lies here
        ends = hashlib.sha256(head + file.read()).hexdigest()
    return {"name": name, "num_bytes": size, "sha256_of_ends": ends}
