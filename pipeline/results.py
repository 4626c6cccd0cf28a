"""Where a stage's result lies and when it counts as finished.

``<output_dir>/<stage>/<identity[:12]>/`` holds the stage's files; ``manifest.json``, written
last, makes them a result. The manifest holds content only, so equal inputs give equal manifests;
times, run ids and the commit go to ``circumstance.json``, which is hashed by nobody.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline import storage
from pipeline.errors import ConfigError, DataError
from pipeline.failpoints import failpoint

INDEX = "run.json"
"""In a run's output folder: its settings, and where each finished stage lies."""
MANIFEST = "manifest.json"
CIRCUMSTANCE = "circumstance.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Result:
    """A finished stage."""

    stage: str
    uri: str
    manifest: dict[str, Any]
    """``schema_version, stage, identity, config, inputs, content``."""
    manifest_hash: str
    """SHA-256 of the manifest file: the name by which later stages know this result."""

    @property
    def content(self) -> dict[str, Any]:
        """What the stage states about its files: counts, names, hashes."""
        return self.manifest["content"]


def place(output_dir: str, stage: str, identity: str) -> str:
    """The folder of a stage's result."""
    return storage.join(output_dir, stage, identity[:12])


def read_result(uri: str) -> Result | None:
    """The finished result in a folder, or None where the manifest is not there yet.

    Raises:
        DataError: A version of this project wrote it that this one cannot read.
    """
    path = storage.join(uri, MANIFEST)
    if not storage.exists(path):
        return None
    content = storage.read_bytes(path)
    manifest = storage.read_json(path)
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise DataError(
            f"{path}: schema_version={manifest.get('schema_version')}, this version reads "
            f"{SCHEMA_VERSION}; go on with the version that wrote it, or in another output_dir"
        )
    return Result(manifest["stage"], uri, manifest, hashlib.sha256(content).hexdigest())


def read_index(run_uri: str) -> dict[str, Any]:
    """The index of a run's output folder.

    Raises:
        ConfigError: The folder holds no run.
    """
    uri = storage.join(run_uri, INDEX)
    if not storage.exists(uri):
        raise ConfigError(f"{uri} does not exist: name the output_dir of a run")
    index = storage.read_json(uri)
    if not isinstance(index, dict) or not isinstance(index.get("stages"), dict):
        raise ConfigError(f"{uri} is no run index: it names no stages")
    return index


def stage_places(run_uri: str) -> dict[str, str]:
    """Folder of every finished stage of a run; the index holds them relative to the run.

    Raises:
        ConfigError: The folder holds no run.
    """
    stages = read_index(run_uri)["stages"]
    return {name: storage.join(run_uri, place) for name, place in stages.items()}


def publish_result(
    uri: str,
    *,
    stage: str,
    identity: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    content: Mapping[str, Any],
    circumstance: Mapping[str, Any],
) -> Result:
    """Write circumstance, then manifest; from then on the stage is done.

    Args:
        uri: The stage's folder.
        stage: Name of the stage.
        identity: What the result is a result of.
        config: Semantic configuration.
        inputs: Manifest hash per input.
        content: Counts, file names and hashes that follow from the inputs alone.
        circumstance: Times, work intervals, run ids, commit.
    """
    storage.write_json(storage.join(uri, CIRCUMSTANCE), dict(circumstance))
    failpoint("results.before_manifest")
    storage.write_json(
        storage.join(uri, MANIFEST),
        {
            "schema_version": SCHEMA_VERSION,
            "stage": stage,
            "identity": identity,
            "config": dict(config),
            "inputs": dict(inputs),
            "content": dict(content),
        },
    )
    failpoint("results.after_manifest")
    result = read_result(uri)
    assert result is not None
    return result


@dataclass(frozen=True)
class StageOutput:
    """What a stage function hands back for its manifest and its circumstance."""

    content: dict[str, Any]
    """Follows from the inputs alone: counts, names, hashes."""
    work: list[tuple[float, float]]
    """Unix times (s) between which a partition function or a training loop did the stage's work."""
