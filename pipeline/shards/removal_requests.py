"""What somebody asks to be removed or looked for, as written on a command line.

``kind=value``, or ``kind=@file`` with one value per line (what follows a # is a comment). The kinds
are those of ``removals``, and ``picture``: a picture file, or a folder of them, which stands for
the hash of its bytes and for its perceptual hash.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.shards.removals import KINDS, Entry, entry

PICTURE = "picture"
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif")


def parse(requests: Sequence[str], max_hamming: int) -> list[Entry]:
    """Entries of all requests.

    Args:
        requests: ``kind=value`` or ``kind=@file`` each.
        max_hamming: Bits by which the perceptual hash of a picture may differ.

    Raises:
        ConfigError: A kind, a value or a file is wrong.
    """
    found = []
    for request in requests:
        kind, equals, value = request.partition("=")
        if not equals or kind not in (*KINDS, PICTURE):
            kinds = ", ".join((*KINDS, PICTURE))
            raise ConfigError(f"{request!r}: expected kind=value or kind=@file, of {kinds}")
        for each in _values(value):
            found += (
                _of_pictures(each, max_hamming)
                if kind == PICTURE
                else [entry(kind, each, max_hamming)]
            )
    return sorted(set(found))


def _values(value: str) -> Iterator[str]:
    if not value.startswith("@"):
        yield value
        return
    try:
        lines = Path(value[1:]).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{value[1:]}: cannot read the list: {error}") from error
    for line in lines:
        text = line.strip()
        # An address may hold a #, but none begins with it or has white space before it.
        text = "" if text.startswith("#") else text.split(" #")[0].strip()
        if text:
            yield text


def _of_pictures(place: str, max_hamming: int) -> list[Entry]:
    path = Path(place)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS)
    else:
        files = [path]
    if not files:
        raise ConfigError(f"picture={place}: no picture in this folder ({', '.join(EXTENSIONS)})")
    return [found for file in files for found in _of_picture(file, max_hamming)]


def _of_picture(file: Path, max_hamming: int) -> list[Entry]:
    from pipeline.images.config import DecodeConfig
    from pipeline.images.decode import decode
    from pipeline.images.dedup import signature

    try:
        body = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"picture={file}: cannot read it: {error}") from error
    picture = decode(body, DecodeConfig())
    if isinstance(picture, str):
        raise ConfigError(f"picture={file}: {picture}; give a picture, or name it by sha256")
    return [
        entry("sha256", hashlib.sha256(body).hexdigest()),
        entry("phash", signature(picture.image).phash_hex, max_hamming),
    ]
