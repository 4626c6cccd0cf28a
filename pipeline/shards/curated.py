"""A curated data set shard by shard, as later stages read it: rows and pictures by key.

`reader.open_dataset` is the way in for people; here every file is addressed by its shard's number
and checked against the manifest before it is used.
"""

import io
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8
from PIL import Image

from pipeline import storage
from pipeline.errors import ConfigError, DataError
from pipeline.images.decode import open_rgb
from pipeline.results import Result
from pipeline.shards import manifest
from pipeline.shards.adopt_sample import upright
from pipeline.shards.disk_cache import DiskCache, read_verified
from pipeline.shards.foreign import read_adopted
from pipeline.shards.tars import own_pictures, read_shard
from pipeline.shards.verified import verified
from pipeline.shards.views import box_mean


class CuratedDataset:
    """What `curate` published: shards of our own, or somebody else's that were adopted."""

    def __init__(self, result: Result, cache: DiskCache | None = None) -> None:
        """Stand on a finished `curate` result; ``cache`` keeps tables and views from elsewhere."""
        self.uri, self.cache = result.uri, cache
        self.shards: list[dict[str, Any]] = manifest.entries(result.content)
        """Manifest entries: ``name, num_samples, num_bytes, sha256, parquet_sha256``."""
        self._content = result.content
        self._places: dict[str, str] | None = None
        self._views: dict[int, list[dict[str, Any]]] = {}

    @classmethod
    def open(cls, uri: str, cache: DiskCache | None = None) -> "CuratedDataset":
        """Open the folder of a finished `curate` stage.

        Raises:
            DataError: There is no finished data set.
        """
        return cls(manifest.read_manifest(uri), cache)

    @property
    def views_px(self) -> list[int]:
        """Sides of the stored views, ascending."""
        return sorted(int(side) for side in self._content.get(manifest.VIEWS, {}))

    def require_view(self, view_px: int) -> None:
        """Refuse a view that was never stored.

        Raises:
            ConfigError: Names the sides that were.
        """
        if view_px not in self.views_px:
            raise ConfigError(
                f"{self.uri} has no {view_px} px view, only {self.views_px}; add it to "
                "curate.shards.views_px (or adopt.views_px) and run curate again"
            )

    def view_for(self, image_px: int) -> int:
        """The smallest stored view whose side is a multiple of ``image_px``.

        Raises:
            ConfigError: There is none.
        """
        fitting = [side for side in self.views_px if side % image_px == 0]
        if not fitting:
            raise ConfigError(
                f"{self.uri} has no view that shrinks to {image_px} px evenly, only "
                f"{self.views_px}; add one to curate.shards.views_px (or adopt.views_px) and run "
                "curate again, or embed the shards' own pictures with embed.pictures=shard"
            )
        return fitting[0]

    def rows(self, shard: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of one shard's Parquet, in the order of its samples.

        Args:
            shard: Number of the shard in the manifest.
            columns: Names to read; all by default.

        Raises:
            DataError: The file is not the one the manifest names.
        """
        entry = self.shards[shard]
        uri = storage.join(manifest.folder(self.uri), manifest.parquet_name(entry["name"]))
        content = read_verified(uri, entry["parquet_sha256"], self.cache)
        return pq.read_table(io.BytesIO(content), columns=None if columns is None else [*columns])

    def pictures(
        self, shard: int, view_px: int | None = None, keys: Collection[str] | None = None
    ) -> dict[str, bytes]:
        """Encoded pictures of one shard by key, in stored order.

        Args:
            shard: Number of the shard in the manifest.
            view_px: Side of the view to read; the pool's pictures by default.
            keys: The only samples whose pictures are kept in memory; all by default.

        Raises:
            DataError: There is no such view, or the tar is damaged.
        """
        adopted = self._content.get(manifest.ADOPTED)
        if view_px is not None:
            found = self._views_of(shard, view_px)
        elif adopted is not None:
            entry = self.shards[shard]
            known = set(self.rows(shard, ["key"])["key"].to_pylist())
            with_shard = adopted["keys"] == "with_shard"
            place = self._place(entry["name"])
            found = read_adopted(place, entry, known, with_shard=with_shard)
        else:
            entry = self.shards[shard]
            uri = storage.join(manifest.folder(self.uri), entry["name"])
            found = ((raw.key, raw.image) for raw in read_shard(uri, entry))
        return {key: image for key, image in found if keys is None or key in keys}

    def _views_of(self, shard: int, view_px: int) -> list[tuple[str, bytes]]:
        """Key and encoded view of each sample; the tar is small, and read once."""
        if view_px not in self._views:
            self._views[view_px] = manifest.entries(self._content, view_px)
        entry = self._views[view_px][shard]
        uri = storage.join(manifest.folder(self.uri, view_px), entry["name"])
        with verified(uri, entry, self.cache) as file:
            found = list(own_pictures(file, uri))
        if len(found) != entry["num_samples"]:
            raise DataError(
                f"{uri}: {len(found)} samples, its manifest says {entry['num_samples']}; curate "
                "the data set again"
            )
        return found

    def open_picture(self, picture: bytes) -> Image.Image:
        """Decode a picture of a shard (no view): upright RGB, as curation keeps them."""
        adopted = self._content.get(manifest.ADOPTED)
        return open_rgb(picture) if adopted is None else upright(picture, adopted["max_pixels"])

    def _place(self, name: str) -> str:
        """Where an adopted tar lies."""
        if self._places is None:
            self._places = manifest.places(self.uri)
        return self._places[name]


def decode(picture: bytes, image_px: int | None = None) -> UInt8[np.ndarray, " height width 3"]:
    """Decode one stored picture to RGB; a view also to the side ``image_px``, by box means."""
    image = open_rgb(picture)
    return np.array(image if image_px is None else box_mean(image, image_px))
