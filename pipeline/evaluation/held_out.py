"""Held-out samples: which they are, and a gallery of them for CLIP.

Dimension names: ``picture``, ``dim`` (joint embedding).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from pipeline.errors import DataError
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.embedding_files import EmbeddedDataset
from pipeline.shards.keep_list import KeepList

HELD_OUT_SPLITS = ("test", "validation")
"""Splits that no weight was trained on, the one that nothing ever reads first."""


@dataclass(frozen=True)
class HeldOut:
    """Embeddings of held-out pictures."""

    gallery_z_img: Float32[np.ndarray, " picture dim"]
    """Of pictures whose first captions are distinct."""
    gallery_z_txt: Float32[np.ndarray, " picture dim"]
    """Of those captions."""
    z_img: Float32[np.ndarray, " other dim"]
    """Of all held-out pictures that were read, distinct captions or not."""


@dataclass(frozen=True)
class HeldOutPairs:
    """Held-out pictures and their first captions."""

    captions: list[str]
    z_img: Float32[np.ndarray, " picture dim"]
    z_txt: Float32[np.ndarray, " picture dim"]


@dataclass(frozen=True)
class HeldOutSource:
    """Where held-out samples are read; small, and travels to tasks."""

    curated: CuratedDataset
    embedded: EmbeddedDataset
    keep_list: KeepList
    num_samples: int
    """At most."""
    splits: tuple[str, ...] = HELD_OUT_SPLITS
    """Read one after the other."""

    def by_shard(self) -> list[tuple[int, tuple[str, ...]]]:
        """(shard, keys), the test split first."""
        return held_out_keys(self.curated, self.keep_list, self.num_samples, self.splits)

    def pairs(self) -> HeldOutPairs:
        """The samples in the order of ``by_shard``.

        Raises:
            DataError: There are fewer than two.
        """
        captions: list[str] = []
        z_img, z_txt = [], []
        for shard, keys in self.by_shard():
            table = self.curated.rows(shard, ["key", "captions"])
            known = dict(zip(table["key"].to_pylist(), table["captions"].to_pylist(), strict=True))
            captions += [known[key][0] for key in keys]
            rows = self.embedded.shard(shard, keys)
            z_img.append(rows.z_img.astype(np.float32))
            z_txt.append(rows.z_txt[rows.bounds[:-1]].astype(np.float32))
        if len(captions) < 2:
            raise DataError(
                f"{self.keep_list.uri} holds out {len(captions)} samples, a check needs 2; raise "
                "select.split.test_share and train again"
            )
        return HeldOutPairs(captions, np.concatenate(z_img), np.concatenate(z_txt))


def held_out_keys(
    curated: CuratedDataset,
    keep_list: KeepList,
    limit: int,
    splits: Sequence[str] = HELD_OUT_SPLITS,
) -> list[tuple[int, tuple[str, ...]]]:
    """Keys of the first ``limit`` held-out samples: (shard, keys), the test split first."""
    found: list[tuple[int, tuple[str, ...]]] = []
    left = limit
    for shard, keys in _by_split(curated, keep_list, splits):
        chosen = keys[:left]
        if chosen:
            found.append((shard, tuple(chosen)))
        left -= len(chosen)
        if left <= 0:
            break
    return found


def held_out_embeddings(
    curated: CuratedDataset,
    embedded: EmbeddedDataset,
    keep_list: KeepList,
    gallery_size: int,
    num_pictures: int,
) -> HeldOut:
    """Read held-out embeddings until the gallery is full and there are enough pictures.

    Args:
        curated: The dataset, for captions.
        embedded: Its embeddings.
        keep_list: Splits.
        gallery_size: Largest gallery; captions are compared in lower case.
        num_pictures: Pictures wanted beside the gallery.
    """
    seen: set[str] = set()
    gallery_img, gallery_txt, others = [], [], []
    for shard, keys in _by_split(curated, keep_list):
        table = curated.rows(shard, ["key", "captions"])
        captions = dict(zip(table["key"].to_pylist(), table["captions"].to_pylist(), strict=True))
        rows = embedded.shard(shard, keys)
        for row, key in enumerate(keys):
            _, z_img, z_txt = rows.of(row)
            others.append(z_img)
            caption = captions[key][0].casefold()
            if caption not in seen and len(gallery_img) < gallery_size:
                seen.add(caption)
                gallery_img.append(z_img)
                gallery_txt.append(z_txt[0])
        if len(gallery_img) >= gallery_size and len(others) >= num_pictures:
            break
    return HeldOut(*(_stacked(r, embedded.dim) for r in (gallery_img, gallery_txt, others)))


def _by_split(
    curated: CuratedDataset, keep_list: KeepList, splits: Sequence[str] = HELD_OUT_SPLITS
) -> Iterator[tuple[int, list[str]]]:
    for split in splits:
        for shard, count in enumerate(keep_list.counts(split)):
            if count and shard < len(curated.shards):
                yield shard, keep_list.keys(shard, split)


def _stacked(
    rows: list[Float32[np.ndarray, " dim"]], dim: int
) -> Float32[np.ndarray, " picture dim"]:
    return np.stack(rows) if rows else np.zeros((0, dim), np.float32)
