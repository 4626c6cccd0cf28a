"""A file, a folder, a glob or a list of paths, local or on an object store, as a list of files.

Also: how a file that breaks off is told from a store that does not answer, and read to its break.
"""

import gzip
import io
import zlib
from collections.abc import Callable

import fsspec
import pyarrow as pa

from pipeline import storage
from pipeline.errors import ConfigError

UNREADABLE = (OSError, EOFError, UnicodeDecodeError, pa.ArrowInvalid, pa.ArrowKeyError, zlib.error)
"""What readers raise on damaged bytes; to be asked with ``is_damage``."""
CHUNK_BYTES = 1 << 18
ANY_ENDING = ("",)
"""For ``expand``: files of any name."""
LIST_ENDINGS = (".paths", ".paths.gz")
"""Names of lists of paths, as in Common Crawl's ``wat.paths.gz``."""


def expand(path: str, endings: tuple[str, ...]) -> list[str]:
    """All files behind a path, sorted by name; folders are searched at every depth.

    Args:
        path: A file, a folder or a glob (``*``, ``?``, ``[``; ``**`` for any depth).
        endings: Lower-case name endings that are readable, such as ``.csv.gz``.

    Raises:
        ConfigError: Nothing is there, or nothing readable.
    """
    filesystem, root = fsspec.core.url_to_fs(path)
    is_there = storage.is_local(path) and filesystem.exists(root)  # whatever signs its name holds
    if not is_there and any(mark in path for mark in "*?["):
        found = [str(name) for name in filesystem.glob(root)]
    elif endings != ANY_ENDING and _names_a_file(path, endings):
        return [_existing(filesystem, root, path)]
    elif filesystem.isdir(root):
        found = [str(name) for name in filesystem.find(root)]
    elif endings == ANY_ENDING:
        return [_existing(filesystem, root, path)]
    else:
        _existing(filesystem, root, path)
        raise ConfigError(f"path={path!r}: its name must end in one of {', '.join(endings)}")
    names = [name for name in found if _is_readable(name, endings)]
    if not names:
        raise ConfigError(
            f"path={path!r}: none of its {len(found)} files ends in {', '.join(endings)}; "
            "correct the path or rename the files"
        )
    # fsspec speaks of local files as plain paths; remote ones get their scheme back.
    return sorted(str(filesystem.unstrip_protocol(n)).removeprefix("file://") for n in names)


def is_list(path: str) -> bool:
    """Whether a path names a list of paths."""
    return path.lower().endswith(LIST_ENDINGS)


def listed(path: str, prefix: str, endings: tuple[str, ...]) -> list[str]:
    """The files of a list, in its order; whether they exist is seen when they are read.

    Args:
        path: A file whose name ends in one of ``LIST_ENDINGS``: one path per line.
        prefix: Written before every line that is no URI itself.
        endings: Lower-case name endings that are readable.

    Raises:
        ConfigError: The list is missing or empty, or names something else.
    """
    _existing(*fsspec.core.url_to_fs(path), path)
    content = storage.read_bytes(path)
    try:
        text = (gzip.decompress(content) if path.lower().endswith(".gz") else content).decode()
    except UNREADABLE as error:
        raise ConfigError(f"{path} is no readable list of paths ({error}); repair it") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise ConfigError(f"{path} names no file; give a list with one path per line")
    for line in lines:
        if not line.lower().endswith(endings):
            raise ConfigError(
                f"{path} names {line!r}, which does not end in one of {', '.join(endings)}; give "
                "the list of the source's own kind"
            )
    return [storage.absolute(_with_prefix(line, prefix)) for line in lines]


def base_name(uri: str) -> str:
    """The last part of a path, for messages that must not depend on where a file lies."""
    return uri.rsplit("/", 1)[-1]


def is_damage(error: Exception) -> bool:
    """Whether an ``UNREADABLE`` error speaks of the bytes, and not of a store that failed.

    Decoders raise plain OSErrors without an error number; file systems and networks set one, or
    raise a subclass. Such an error must stop the task, or a retry could not read what is there.
    """
    plain = type(error) in (OSError, gzip.BadGzipFile)
    return not isinstance(error, OSError) or (plain and error.errno is None)


class WholeLines(io.RawIOBase):
    """The lines of a file up to the place where it breaks off; a cut line is left out."""

    def __init__(self, read: Callable[[int], bytes], name: str, damage: list[str]) -> None:
        """Wrap a reader.

        Args:
            read: Gives at most so many bytes; nothing at the end.
            name: The file's name for the message.
            damage: Receives a line where the file breaks off.
        """
        self._read, self._name, self._damage = read, name, damage
        self._lines, self._tail = memoryview(b""), bytearray()
        self._num_bytes, self._ended = 0, False

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: memoryview | bytearray) -> int:  # type: ignore[override]
        """Fill a buffer with what is there; 0 at the end."""
        while not self._lines and not self._ended:
            self._fill()
        num = min(len(buffer), len(self._lines))
        buffer[:num] = self._lines[:num]
        self._lines = self._lines[num:]
        return num

    def _fill(self) -> None:
        try:
            chunk = self._read(CHUNK_BYTES)
        except UNREADABLE as error:
            if not is_damage(error):
                raise
            self._damage.append(f"{self._name}: breaks off after {self._num_bytes} bytes: {error}")
            self._ended = True
            return
        self._num_bytes += len(chunk)
        searched = len(self._tail)
        self._tail += chunk
        end = len(self._tail) if not chunk else self._tail.rfind(b"\n", searched) + 1
        self._lines, self._ended = memoryview(bytes(self._tail[:end])), not chunk
        del self._tail[:end]


def _is_readable(name: str, endings: tuple[str, ...]) -> bool:
    return storage.TEMPORARY_MARK not in name and name.lower().endswith(endings)


def _with_prefix(line: str, prefix: str) -> str:
    return storage.join(prefix, line) if prefix and "://" not in line else line


def _names_a_file(path: str, endings: tuple[str, ...]) -> bool:
    """Told by the name where it can be: asking a web server for a folder may load the file."""
    is_folder = storage.is_local(path) and storage.local_path(path).is_dir()
    return path.lower().endswith(endings) and not is_folder


def _existing(filesystem: fsspec.AbstractFileSystem, root: str, path: str) -> str:
    if not filesystem.exists(root):
        raise ConfigError(
            f"path={path!r}: no such file or folder; correct the path, or give a folder or a glob"
        )
    return storage.absolute(path)
