"""A sample of somebody else's shard → a row of our table and its views, or a drop reason."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from PIL import Image

from pipeline.candidates import schema, urls
from pipeline.candidates.rows import clean_caption, well_formed
from pipeline.images import block_list, filters
from pipeline.images.block_list import BlockList
from pipeline.images.config import DecodeConfig
from pipeline.images.decode import open_received
from pipeline.images.decoder import DecodedPixels, shared
from pipeline.shards.adopt_config import AdoptConfig
from pipeline.shards.foreign import UNREADABLE_JSON, ForeignSample, dataset_key
from pipeline.shards.writer import SAMPLE, carried_name

OWN_COLUMNS = frozenset({*SAMPLE.names, "pixel_sha256", "thumbnail"})
"""A field of these names that is carried is kept as ``source_…``."""


@dataclass(frozen=True)
class AdoptedSample:
    """What became of one sample."""

    row: dict[str, Any]
    """Columns of ``scan_schema``; of a dropped sample only ``key, url, captions, uids``."""
    image: Image.Image | None
    """Upright RGB; None of a sample that fell before it was decoded."""
    drop_reason: str | None

    @property
    def num_pairs(self) -> int:
        """Pairs of picture and caption; a sample without captions counts as one."""
        return max(1, len(self.row["captions"]))

    def pairs(self) -> list[dict[str, str]]:
        """``uid, url_id, url, caption`` of each pair, for the collection of rejects."""
        captions = self.row["captions"] or [""]
        return [
            {"uid": uid, "url_id": self.row["key"], "url": self.row["url"], "caption": caption}
            for uid, caption in zip(self.row["uids"], captions, strict=True)
        ]


def scan_schema(config: AdoptConfig) -> pa.Schema:
    """Columns of what the scan hands on: a shard's table without clusters, and signatures."""
    fixed = [field for field in SAMPLE if field.name != "cluster"]
    return pa.schema(
        [*fixed, *_carried(config), ("pixel_sha256", pa.string()), ("thumbnail", pa.binary())]
    )


def table_schema(config: AdoptConfig) -> pa.Schema:
    """Columns of an adopted shard's table."""
    return pa.schema([*SAMPLE, *_carried(config)])


def described(sample: ForeignSample, shard: str, config: AdoptConfig) -> dict[str, Any]:
    """``key, url, captions, uids`` of a sample, from its texts alone; nothing is decoded.

    A sample that cannot be used, or has no caption, has one uid, made of its key.

    Args:
        sample: As it lies in its tar.
        shard: Name of the tar.
        config: Which fields mean what.
    """
    key = dataset_key(sample.key, shard, with_shard=config.keys == "with_shard")
    fields = sample.fields()
    url = _url(fields, config)
    captions = _captions(sample, fields, config) if sample.drop_reason is None else []
    if not captions:
        return {"key": key, "url": url, "captions": [], "uids": [urls.uid(key, "")]}
    picture_id = urls.url_id(url) if url else _sha256(sample)[:32]
    uids = [urls.uid(picture_id, caption) for caption in captions]
    return {"key": key, "url": url, "captions": captions, "uids": uids}


def blocked_by(config: AdoptConfig) -> BlockList:
    """The lists of pictures that shall not be taken, as one.

    Raises:
        ConfigError: A list cannot be read or holds something else than hashes.
    """
    return BlockList((), 0) if config.filters is None else block_list.read(config.filters)


def adopt_sample(
    sample: ForeignSample, shard: str, config: AdoptConfig, blocked: BlockList
) -> AdoptedSample:
    """Read, decode and judge one sample; strangers' pictures are opened in a killable process.

    Args:
        sample: As it lies in its tar.
        shard: Name of the tar.
        config: Which fields mean what, and thresholds.
        blocked: Pictures that shall not be taken.
    """
    row = described(sample, shard, config)
    reason = sample.drop_reason or (None if row["captions"] else schema.EMPTY_CAPTION)
    if reason is not None:
        return AdoptedSample(row, None, reason)
    sha256 = _sha256(sample)
    found = _bytes_reason(sample.image, sha256, config, blocked)
    found = found or shared(config.decoding).pixels(sample.image)
    if isinstance(found, str):
        return AdoptedSample(row, None, found)
    if (reason := blocked.picture_reason(found.signature.phash)) is not None:
        return AdoptedSample(row, None, reason)  # without a picture: nobody shall look at it
    if config.filters is not None:
        reason = filters.picture_reason(found.image.width, found.image.height, config.filters)
        if reason is not None:
            return AdoptedSample(row, found.image, reason)
    try:
        facts = _facts(found, sha256, sample.fields(), config)
    except RecursionError:  # nested as deep as just can be read
        return AdoptedSample(row, None, UNREADABLE_JSON)
    return AdoptedSample(row | facts, found.image, None)


def upright(encoded: bytes, max_pixels: int) -> Image.Image:
    """An adopted picture as curation would have kept it: upright, RGB, transparency over white.

    It is decoded in this process, which bounds neither time nor memory beyond the pixels: only for
    pictures of a tar whose sha256 is the manifest's. These very bytes were decoded within
    ``cpu_deadline_s`` and the limit of memory, in a process of their own, when they were adopted.

    Raises:
        ValueError: It cannot be decoded; samples of the data set can.
    """
    found = open_received(encoded, DecodeConfig(max_pixels=max_pixels, resize_mode="no"))
    if isinstance(found, str):
        raise ValueError(found)
    return found.image


def _sha256(sample: ForeignSample) -> str:
    return hashlib.sha256(sample.image).hexdigest()


def _bytes_reason(body: bytes, sha256: str, config: AdoptConfig, blocked: BlockList) -> str | None:
    """Why a file falls undecoded."""
    reason = config.filters and filters.bytes_reason(len(body), config.filters)
    return reason or blocked.bytes_reason(body, sha256)


def _facts(
    found: DecodedPixels, sha256: str, fields: Mapping[str, Any], config: AdoptConfig
) -> dict[str, Any]:
    image, signature = found.image, found.signature
    licence = fields.get(config.licence_field) if config.licence_field else None
    return {
        "sha256": sha256,
        "width": image.width,
        "height": image.height,
        "original_width": _pixels(fields.get("original_width"), image.width),
        "original_height": _pixels(fields.get("original_height"), image.height),
        "phash": signature.phash_hex,
        "queries": [],
        "page_url": None,
        "licence": None if licence is None else _text(licence),
        "pixel_sha256": signature.pixel_sha256,
        "thumbnail": signature.thumbnail,
        **{
            carried_name(name, OWN_COLUMNS): _text(fields.get(name))
            for name in config.carried_fields
        },
    }


def _url(fields: Mapping[str, Any], config: AdoptConfig) -> str:
    """The canonical address; as stated where it has no such form, empty where there is none."""
    stated = fields.get(config.url_field)
    if not isinstance(stated, str):
        return ""
    return urls.canonical(stated) or well_formed(stated)


def _captions(sample: ForeignSample, fields: Mapping[str, Any], config: AdoptConfig) -> list[str]:
    """Distinct captions in NFC, none empty, in the order in which they are stated."""
    if config.caption_fields:
        stated = [fields.get(name) for name in config.caption_fields]
    elif "txt" in sample.members:
        stated = [sample.members["txt"].decode("utf-8", "replace")]
    else:
        stated = [fields.get("captions") or fields.get("caption")]
    texts = [text for each in stated for text in (each if isinstance(each, list) else [each])]
    clean = [clean_caption(text) for text in texts if isinstance(text, str)]
    return list(dict.fromkeys(text for text in clean if text))


def _pixels(stated: Any, otherwise: int) -> int:  # noqa: ANN401 - any JSON value
    plain = isinstance(stated, int) and not isinstance(stated, bool)
    return stated if plain and 0 < stated < 1 << 31 else otherwise


def _text(value: Any) -> str | None:  # noqa: ANN401 - any JSON value
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return well_formed(text)


def _carried(config: AdoptConfig) -> list[pa.Field]:
    names = (carried_name(name, OWN_COLUMNS) for name in config.carried_fields)
    return [pa.field(name, pa.string()) for name in names]
