"""Which pictures are the same: by bytes, by pixels, and to the eye.

Exact groups (equal bytes, then equal pixels) collapse first. Then survivors are taken in the order
(larger side first, then uid): a picture that resembles an earlier leader joins it, any other
becomes a leader. Pictures are compared with leaders alone, so nothing chains through strangers.
"To the eye" means two things at once: the perceptual hashes differ in few bits, and small RGB
thumbnails differ little; the hash alone sees luminance and takes a green disc for a red one.

The result is a function of the set of rows: neither their order nor any partitioning enters.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from pipeline.images.config import DedupConfig
from pipeline.images.near_hashes import NearHashes

HASH_SIDE = 8
DCT_SIDE = 32
THUMBNAIL_SIDE = 8
_SCALE = 1 << 14


def _dct_rows() -> Int[np.ndarray, " frequency position"]:
    """The first rows of the DCT-II matrix as integers: sums are exact on every machine."""
    frequency = np.arange(HASH_SIDE)[:, None]
    position = np.arange(DCT_SIDE)[None, :]
    angle = np.pi * frequency * (2 * position + 1) / (2 * DCT_SIDE)
    return np.round(np.cos(angle) * _SCALE).astype(np.int64)


_DCT = _dct_rows()


@dataclass(frozen=True)
class Signature:
    """What a picture is compared by."""

    pixel_sha256: str
    """Of the size and the RGB values."""
    phash: int
    """64 bits: which of the 8 × 8 lowest DCT frequencies of the luminance exceed their median."""
    thumbnail: bytes
    """8 × 8 RGB means, row by row."""

    @property
    def phash_hex(self) -> str:
        """The hash as 16 hex digits."""
        return f"{self.phash:016x}"


def signature(image: Image.Image) -> Signature:
    """The signature of an RGB picture."""
    digest = hashlib.sha256(f"{image.width}x{image.height}\n".encode())
    digest.update(image.tobytes())
    box = Image.Resampling.BOX
    thumbnail = image.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), box)
    grey = image.convert("L").resize((DCT_SIDE, DCT_SIDE), Image.Resampling.BILINEAR)
    return Signature(digest.hexdigest(), phash(np.asarray(grey)), thumbnail.tobytes())


def phash(luminance: UInt8[np.ndarray, " 32 32"]) -> int:
    """The perceptual hash of a 32 × 32 luminance picture."""
    frequencies = (_DCT @ luminance.astype(np.int64) @ _DCT.T).ravel()
    bits = frequencies > np.median(frequencies[1:])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


@dataclass(frozen=True)
class Entry:
    """One picture as the search for duplicates sees it."""

    key: str
    sha256: str
    """Of the received bytes."""
    pixel_sha256: str
    phash: int
    thumbnail: bytes
    side_px: int
    """Larger side of the received picture."""
    uid: str
    """Smallest uid of its captions: breaks ties."""


COLUMNS = ("key", "sha256", "pixel_sha256", "phash", "thumbnail", "uids")
COLUMNS += ("original_width", "original_height")
"""Of a table of pictures: what ``entry`` reads."""


def entry(row: Mapping[str, Any]) -> Entry:
    """A picture of a table; ``row`` has ``COLUMNS``."""
    return Entry(
        key=row["key"],
        sha256=row["sha256"],
        pixel_sha256=row["pixel_sha256"],
        phash=int(row["phash"], 16),
        thumbnail=row["thumbnail"],
        side_px=max(row["original_width"], row["original_height"]),
        uid=min(row["uids"]),
    )


@dataclass(frozen=True)
class Verdict:
    """What became of one picture."""

    cluster: str
    """Key of its group's leader; its own where it leads or is alone."""
    drop_reason: str | None
    """``exact_duplicate``, ``near_duplicate`` or None for a leader."""


def group(entries: Sequence[Entry], config: DedupConfig) -> dict[str, Verdict]:
    """Find duplicates.

    Args:
        entries: Pictures with distinct keys, in any order.
        config: How far hashes and thumbnails may differ.

    Returns:
        One verdict per key.
    """
    ordered = sorted(entries, key=order)
    same_as = _exact(ordered)
    leaders = _Leaders(config)
    verdicts: dict[str, Verdict] = {}
    for entry in ordered:
        survivor = same_as[entry.key]
        if survivor != entry.key:  # the survivor comes earlier in the order
            verdicts[entry.key] = Verdict(verdicts[survivor].cluster, "exact_duplicate")
            continue
        leader = leaders.find(entry)
        if leader is None:
            leaders.add(entry)
            verdicts[entry.key] = Verdict(entry.key, None)
        else:
            verdicts[entry.key] = Verdict(leader, "near_duplicate")
    return verdicts


def order(entry: Entry) -> tuple[int, str, str]:
    """Who leads whom: the larger side first, then the smaller uid."""
    return -entry.side_px, entry.uid, entry.key


def _exact(ordered: Sequence[Entry]) -> dict[str, str]:
    """Key → first key with the same bytes or, failing that, the same pixels."""
    by_bytes: dict[str, str] = {}
    by_pixels: dict[str, str] = {}
    same_as = {}
    for entry in ordered:
        first = by_bytes.get(entry.sha256) or by_pixels.get(entry.pixel_sha256) or entry.key
        by_bytes.setdefault(entry.sha256, first)
        by_pixels.setdefault(entry.pixel_sha256, first)
        same_as[entry.key] = first
    return same_as


class _Leaders:
    """Leaders, found by their hashes and then by their colours."""

    def __init__(self, config: DedupConfig) -> None:
        self._tolerance = config.max_colour_difference
        self._hashes = NearHashes(config.max_hamming)
        self._keys: list[str] = []
        self._thumbnails: list[bytes] = []

    def find(self, entry: Entry) -> str | None:
        """The first leader that ``entry`` resembles."""
        for index in self._hashes.near(entry.phash):
            if _same_colours(self._thumbnails[index], entry.thumbnail, self._tolerance):
                return self._keys[index]
        return None

    def add(self, entry: Entry) -> None:
        """Let ``entry`` lead from now on."""
        self._hashes.add(entry.phash)
        self._keys.append(entry.key)
        self._thumbnails.append(entry.thumbnail)


def _same_colours(one: bytes, other: bytes, tolerance: int) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(one, other, strict=True))
