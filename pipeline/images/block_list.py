"""Lists of pictures that shall not be taken: hashes of their bytes, or of how they look.

A line holds one hash in hex; its length tells which: MD5, SHA-256, or the 64-bit perceptual hash of
``dedup.phash``, which shards carry in their column ``phash``.
"""

import hashlib
from collections.abc import Sequence

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.images.config import FilterConfig
from pipeline.images.near_hashes import NearHashes

MD5_DIGITS, SHA256_DIGITS, PHASH_DIGITS = LENGTHS = (32, 64, 16)
BLOCKED_BYTES = "blocked_bytes"
BLOCKED_PICTURE = "blocked_picture"


class BlockList:
    """Says of a received file, and of the picture in it, whether a list names it."""

    def __init__(self, digests: Sequence[str], max_hamming: int) -> None:
        """Block what is listed.

        Args:
            digests: Hashes in hex, of the three lengths.
            max_hamming: Largest number of bits by which a perceptual hash may differ from one.
        """
        by_length: dict[int, set[str]] = {length: set() for length in LENGTHS}
        for digest in digests:
            by_length[len(digest)].add(digest)
        self._md5, self._sha256 = by_length[MD5_DIGITS], by_length[SHA256_DIGITS]
        self._near = NearHashes(max_hamming)
        for digest in sorted(by_length[PHASH_DIGITS]):
            self._near.add(int(digest, 16))

    def bytes_reason(self, body: bytes, sha256: str) -> str | None:
        """Why received bytes fall before anybody decodes them.

        Args:
            body: As received.
            sha256: Their SHA-256 in hex.
        """
        if sha256 in self._sha256:
            return BLOCKED_BYTES
        if self._md5 and hashlib.md5(body, usedforsecurity=False).hexdigest() in self._md5:
            return BLOCKED_BYTES
        return None

    def picture_reason(self, phash: int) -> str | None:
        """Why a picture falls whose perceptual hash is ``phash``."""
        return BLOCKED_PICTURE if self._near.near(phash) else None


def read(config: FilterConfig) -> BlockList:
    """The lists that a configuration names, as one.

    Raises:
        ConfigError: A list cannot be read or holds something else than hashes.
    """
    digests = [digest for uri in config.block_lists for digest in _digests(uri)]
    return BlockList(digests, config.block_max_hamming)


def absolute(config: FilterConfig) -> FilterConfig:
    """The same settings for workers, who have working folders of their own."""
    lists = tuple(storage.absolute(uri) for uri in config.block_lists)
    return config.model_copy(update={"block_lists": lists})


def content_hash(config: FilterConfig) -> str:
    """Identity of the lists' content: sha256 of the hashes they hold, each once, sorted.

    Raises:
        ConfigError: As ``read``.
    """
    digests = {digest for uri in config.block_lists for digest in _digests(uri)}
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def _digests(uri: str) -> list[str]:
    try:
        lines = storage.read_bytes(uri).decode("ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{uri}: cannot read the block list: {error}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        digest = line.partition("#")[0].strip().lower()
        if digest:
            _check(digest, f"{uri}, line {number}")
            found.append(digest)
    return found


def _check(digest: str, place: str) -> None:
    is_hex = all(digit in "0123456789abcdef" for digit in digest)
    if not is_hex or len(digest) not in LENGTHS:
        raise ConfigError(
            f"{place}: {digest[:80]!r} is no hash; {MD5_DIGITS} hex digits (MD5), {SHA256_DIGITS} "
            f"(SHA-256) or {PHASH_DIGITS} (perceptual) are needed"
        )
