"""Checkpoints that are complete or invisible.

A training checkpoint is a new folder ``step-<samples_seen>`` of a distributed checkpoint
(``torch.distributed.checkpoint``): every rank writes its own files, then rank 0 writes
``manifest.json`` with the length and SHA-256 of each file. Without the manifest a checkpoint does
not exist. Its keys:

- ``model/<parameter or buffer>``: the live network
- ``optimizer/<parameter>/{step,exp_avg,exp_avg_sq}``: AdamW's state
- ``ema/<parameter>``: the moving average
- ``progress/...``: ``samples_seen`` and what the loop counts

The format holds a pickle (``.metadata``), so every hash is checked before anything is opened.
"""

import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load as load_distributed
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from pipeline import storage
from pipeline.errors import CheckpointError, StorageError
from pipeline.failpoints import failpoint

MANIFEST = "manifest.json"
PREFIX = "step-"
SCHEMA_VERSION = 1

State = dict[str, dict[str, Tensor]]
"""Group (``model``, ``optimizer``, ...) → name → tensor."""


def _in_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def _rank() -> int:
    return dist.get_rank() if _in_group() else 0


@contextmanager
def _quiet_alone() -> Iterator[None]:
    """Without a process group torch warns of what is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def save(uri: str, state: State, samples_seen: int, group: dist.ProcessGroup | None = None) -> str:
    """Write a new checkpoint below ``uri``; every rank of the process group calls it.

    Args:
        uri: Folder of the run's checkpoints.
        state: Tensors to store; a replicated one may be given by any ranks and is written by one.
        samples_seen: Position of the run; names the checkpoint.
        group: Over which the ranks agree; the default group by default. A thread beside the
            training needs one of its own.

    Returns:
        The checkpoint's URI.

    Raises:
        StorageError: The store is full or failed some rank; every rank raises, nothing is left.
    """
    target = storage.join(uri, f"{PREFIX}{samples_seen:012d}")
    if _rank() == 0:
        _delete(target)  # of an earlier attempt that died here: never write into an old folder
    if _in_group():
        dist.barrier(group)
    failpoint("checkpoints.before_files")
    try:
        files = _agreed(_write_own_files(target, state, group), group)
    except (OSError, StorageError) as error:
        if _rank() == 0:
            with suppress(StorageError):  # of a store that is away: `clean` does it later
                _delete(target)  # half a checkpoint must not fill the disk
        raise _failed(error, target) from error
    if _rank() == 0:
        failpoint("checkpoints.before_manifest")
        manifest = {"schema_version": SCHEMA_VERSION, "samples_seen": samples_seen, "files": files}
        storage.write_json(storage.join(target, MANIFEST), manifest)
        failpoint("checkpoints.after_manifest")
    return target


Files = dict[str, dict[str, Any]]
Trouble = OSError | StorageError


def _write_own_files(target: str, state: State, group: dist.ProcessGroup | None) -> Files | Trouble:
    """This rank's files in the manifest's form, or what kept it from writing them."""
    try:
        with _writable(target) as folder:
            with _quiet_alone():
                save_distributed(
                    state, checkpoint_id=folder, process_group=group, no_dist=not _in_group()
                )
            failpoint("checkpoints.after_files")
            return _publish_own_files(folder, target)
    except CheckpointException as error:
        causes = [cause for cause, _ in error.failures.values()]
        return next((cause for cause in causes if isinstance(cause, OSError)), OSError(str(error)))
    except (OSError, StorageError) as error:
        return error


def _agreed(own: Files | Trouble, group: dist.ProcessGroup | None) -> Files:
    """Files of all ranks; also the barrier before the manifest. One rank's error is everyone's."""
    gathered: list[Any] = [own]
    if _in_group():
        gathered = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, own, group)
    for part in gathered:
        if isinstance(part, Trouble):
            raise part
    return {name: entry for part in gathered for name, entry in part.items()}


def _failed(error: Trouble, target: str) -> StorageError:
    told = storage.explained(error, target) if isinstance(error, OSError) else error
    if isinstance(told, StorageError):
        return told
    return StorageError(f"{target} cannot be written: {_first_line(error)}; run again")


@contextmanager
def _writable(target: str) -> Iterator[Path]:
    """The folder itself where it is local; else a private one whose files are then copied."""
    if storage.is_local(target):
        path = storage.local_path(target)
        path.mkdir(parents=True, exist_ok=True)
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="ckpt-") as folder:
        yield Path(folder)


def _publish_own_files(folder: Path, target: str) -> Files:
    own = sorted(folder.glob(f"__{_rank()}_*"))
    if _rank() == 0:
        own.append(folder / ".metadata")
    entries = {}
    for path in own:
        destination = storage.join(target, path.name)
        if not storage.is_local(target):
            storage.publish_file(path, destination)
        entries[path.name] = {
            "num_bytes": path.stat().st_size,
            "sha256": storage.sha256_of(str(path)),
        }
    return entries


def completed(uri: str) -> list[str]:
    """URIs of the complete checkpoints below ``uri``, oldest first."""
    folders = [storage.join(uri, name) for name in storage.list_names(uri) if _is_step(name)]
    return [folder for folder in folders if storage.exists(storage.join(folder, MANIFEST))]


def latest(uri: str) -> str | None:
    """URI of the newest complete checkpoint, or None."""
    found = completed(uri)
    return found[-1] if found else None


def samples_seen(checkpoint_uri: str) -> int:
    """Samples seen when a complete checkpoint was written."""
    return int(checkpoint_uri.rsplit("/", 1)[-1].removeprefix(PREFIX))


def verify(checkpoint_uri: str) -> dict[str, Any]:
    """Compare every file with the manifest and return the manifest; nothing is unpickled.

    Raises:
        CheckpointError: No manifest, a missing or unknown file, another length or hash.
    """
    path = storage.join(checkpoint_uri, MANIFEST)
    if not storage.exists(path):
        raise CheckpointError(f"{checkpoint_uri} has no {MANIFEST}: it was never completed")
    manifest = storage.read_json(path)
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise CheckpointError(
            f"{path}: schema_version={manifest.get('schema_version')}, this version reads "
            f"{SCHEMA_VERSION}"
        )
    found = set(storage.list_names(checkpoint_uri)) - {MANIFEST}
    if found != set(manifest["files"]):
        differing = sorted(found ^ set(manifest["files"]))
        raise CheckpointError(f"{checkpoint_uri}: files differ from its manifest: {differing}")
    for name, entry in manifest["files"].items():
        _verify_file(storage.join(checkpoint_uri, name), entry)
    return manifest


def _verify_file(uri: str, entry: Mapping[str, Any]) -> None:
    size = storage.size_of(uri)
    if size != entry["num_bytes"]:
        raise CheckpointError(f"{uri}: {size} bytes, its manifest says {entry['num_bytes']}")
    digest = storage.sha256_of(uri)
    if digest != entry["sha256"]:
        raise CheckpointError(
            f"{uri}: sha256 {digest[:12]}… is not the manifest's {entry['sha256'][:12]}…; "
            "delete this checkpoint to go on from the one before"
        )


def load(checkpoint_uri: str, state: State) -> int:
    """Verify a checkpoint, then fill ``state``'s tensors in place; every rank calls it.

    Args:
        checkpoint_uri: A complete checkpoint.
        state: Live tensors under the names that were saved.

    Returns:
        Samples seen when it was written.
    """
    manifest = verify(checkpoint_uri)
    with _readable(checkpoint_uri, list(manifest["files"])) as folder:
        try:
            with _quiet_alone():
                load_distributed(state, checkpoint_id=folder, no_dist=not _in_group())
        except (RuntimeError, ValueError, CheckpointException) as error:
            cause = error
            if isinstance(error, CheckpointException):
                cause = next(cause for cause, _ in error.failures.values())
            raise CheckpointError(
                f"{checkpoint_uri} does not fit this model: {_first_line(cause)}"
            ) from error
    return int(manifest["samples_seen"])


@contextmanager
def _readable(uri: str, names: list[str]) -> Iterator[Path]:
    if storage.is_local(uri):
        yield storage.local_path(uri)
        return
    with tempfile.TemporaryDirectory(prefix="ckpt-") as folder:
        for name in names:
            storage.fetch_file(storage.join(uri, name), Path(folder) / name)
        yield Path(folder)


def keep_last(uri: str, count: int) -> None:
    """Delete all but the newest ``count`` complete checkpoints."""
    for folder in completed(uri)[:-count]:
        _delete(folder)


def clean(uri: str) -> list[str]:
    """Delete what killed processes left: folders without a manifest; returns their names."""
    done = {folder.rsplit("/", 1)[-1] for folder in completed(uri)}
    orphans = [name for name in storage.list_names(uri) if _is_step(name) and name not in done]
    for name in orphans:
        _delete(storage.join(uri, name))
    return orphans


def _is_step(name: str) -> bool:
    return name.startswith(PREFIX) and name.removeprefix(PREFIX).isdigit()


def _delete(uri: str) -> None:
    if not storage.exists(uri):
        return
    manifest = storage.join(uri, MANIFEST)
    if storage.is_local(uri):
        # The manifest goes first, so that half a checkpoint is never a complete one.
        storage.local_path(manifest).unlink(missing_ok=True)
        failpoint("checkpoints.after_unlisting")
        shutil.rmtree(storage.local_path(uri))
        return
    storage.remove_file(manifest)
    storage.remove_folder(uri)


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
