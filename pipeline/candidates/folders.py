"""Folders of pictures with their captions → candidates with addresses of their own.

The captions stand in a text file beside each picture (``0001.jpg``, ``0001.txt``: the layout in
which img2dataset writes files), or in a table inside the folder (``metadata.jsonl``,
``captions.csv``). A picture's address is ``file:///`` and its path inside the folder
(``urls.local``); the crawl reads such addresses from that folder and from nowhere else.
"""

import hashlib
import posixpath
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from typing import Any, cast

import fsspec

from pipeline import storage
from pipeline.candidates import rows, schema, url_tables
from pipeline.candidates.config import FolderConfig, UrlTableConfig
from pipeline.candidates.rows import Candidates, RawRows
from pipeline.errors import ConfigError
from pipeline.identity import canonical_json, fingerprint

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
CAPTION = ".txt"
MAX_CAPTION_BYTES = 1 << 16
"""Read of a text beside a picture."""


def plan(config: FolderConfig) -> list[dict[str, Any]]:
    """The partitions of the captions' table, or one per folder that holds pictures.

    Raises:
        ConfigError: No such folder, no picture in it, or a wrong table.
    """
    if config.captions is not None:
        return [{**part, "type": "folder"} for part in url_tables.plan(_table(config))]
    filesystem, root = _open(config)
    found = [str(name) for name in filesystem.find(root)]
    folders = {posixpath.dirname(name) for name in _pictures(found)}
    if not folders:
        raise ConfigError(
            f"path={config.path!r}: none of its {len(found)} files ends in {', '.join(PICTURES)}; "
            "correct the path"
        )
    return [{"type": "folder", "path": folder} for folder in sorted(folders)]


def read(config: FolderConfig, partition: dict[str, Any]) -> Candidates:
    """The candidates of one partition; a text that is no UTF-8 falls as ``unreadable_row``."""
    if config.captions is not None:
        return url_tables.read(_table(config), partition, is_local=True)
    dropped: Counter[str] = Counter()
    paths: list[str] = []
    captions: list[str | None] = []
    for path, content in _read_folder(config, str(partition["path"])):
        try:
            captions.append(None if content is None else content.decode())
            paths.append(path)
        except UnicodeDecodeError:
            dropped[schema.UNREADABLE_ROW] += 1
    built = rows.build(RawRows(paths, captions, is_local=True), config.sample)
    dropped.update(built.dropped)
    return Candidates(built.table, dict(dropped))


def pictures_identity(config: FolderConfig) -> str:
    """Hash of every picture's path and length, and of the texts beside them."""
    return _pictures_identity(config.model_dump_json(), fingerprint(_state(config)))


@lru_cache(maxsize=8)
def _pictures_identity(settings: str, state: str) -> str:
    """Reads the texts once per process while nothing in the folder changes."""
    del state  # part of the cache's key
    config, digest = FolderConfig.model_validate_json(settings), hashlib.sha256()
    filesystem, root = _open(config)
    found = cast(dict[str, dict[str, Any]], filesystem.find(root, detail=True))
    for name in _pictures(found):
        line = [posixpath.relpath(name, root), found[name]["size"]]
        if config.captions is None:
            text = _text_beside(config, filesystem, root, name, found)
            line.append(None if text is None else hashlib.sha256(text).hexdigest())
        digest.update(canonical_json(line))
    return digest.hexdigest()


def _state(config: FolderConfig) -> list[list[Any]]:
    """What tells a folder from its former self."""
    filesystem, root = _open(config)
    found = cast(dict[str, dict[str, Any]], filesystem.find(root, detail=True))
    return [[name, info["size"], str(info.get("mtime"))] for name, info in sorted(found.items())]


def table_path(config: FolderConfig) -> str:
    """Where the captions' table lies."""
    assert config.captions is not None
    return storage.join(storage.absolute(config.path), config.captions)


def _open(config: FolderConfig) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system and the folder's name there."""
    filesystem, root = fsspec.core.url_to_fs(storage.absolute(config.path))
    if not filesystem.isdir(root):
        raise ConfigError(f"path={config.path!r} is no folder; name the folder of the pictures")
    return filesystem, str(root)


def _pictures(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.lower().endswith(PICTURES))


def _read_folder(config: FolderConfig, folder: str) -> Iterator[tuple[str, bytes | None]]:
    """Every picture of one folder: its path inside the root, and the text beside it, if any."""
    filesystem, root = _open(config)
    names = {str(name) for name in filesystem.ls(folder, detail=False)}
    for name in _pictures(names):
        yield posixpath.relpath(name, root), _text_beside(config, filesystem, root, name, names)


def _text_beside(
    config: FolderConfig,
    filesystem: fsspec.AbstractFileSystem,
    root: str,
    picture: str,
    names: Collection[str],
) -> bytes | None:
    """The text file beside a picture; none where a link leads out of the folder."""
    caption = posixpath.splitext(picture)[0] + CAPTION
    if caption not in names:
        return None
    uri = storage.contained(storage.absolute(config.path), posixpath.relpath(caption, root))
    if uri is None:
        return None
    with storage.open_for_read(uri) as file:
        return file.read(MAX_CAPTION_BYTES)


def _table(config: FolderConfig) -> UrlTableConfig:
    """The folder as a table whose addresses are paths."""
    assert config.captions is not None
    return UrlTableConfig(
        type="url_table",
        path=table_path(config),
        url_column=config.file_column,
        caption_column=config.caption_column,
        licence_column=config.licence_column,
        url_prefix=posixpath.dirname(config.captions),
        carried_columns=config.carried_columns,
        sample=config.sample,
        execution=config.execution,
    )
