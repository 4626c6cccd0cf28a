"""The public way into a data set: its samples, decoded, whoever wrote the tars."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from pipeline import storage
from pipeline.images.decode import open_rgb
from pipeline.results import INDEX, Result, stage_places
from pipeline.shards import manifest
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.tars import read_shard


@dataclass(frozen=True)
class DatasetSample:
    """One sample, decoded."""

    key: str
    image: Image.Image
    """RGB."""
    captions: tuple[str, ...]
    metadata: dict[str, Any]


class Dataset:
    """A curated data set. Iterating gives its samples, shard by shard, each shard verified."""

    def __init__(self, result: Result, view_px: int | None = None) -> None:
        """Stand on a finished curate stage; ``view_px`` reads square views instead of pictures."""
        self._uri, self._view_px = result.uri, view_px
        self._adopted = CuratedDataset(result) if manifest.ADOPTED in result.content else None
        self.entries = manifest.entries(result.content, view_px)
        self.funnel: dict[str, Any] = result.content["funnel"]
        """``candidates`` = ``kept`` + the sum of ``dropped``, in pairs."""

    def __len__(self) -> int:
        """Number of samples (pictures)."""
        return sum(int(entry["num_samples"]) for entry in self.entries)

    def __iter__(self) -> Iterator[DatasetSample]:
        """All samples in file order."""
        for shard in range(len(self.entries)):
            if self._adopted is None:
                yield from self._own(shard)
            else:
                yield from self._foreign(self._adopted, shard)

    def _own(self, shard: int) -> Iterator[DatasetSample]:
        entry = self.entries[shard]
        uri = storage.join(manifest.folder(self._uri, self._view_px), entry["name"])
        for raw in read_shard(uri, entry):
            yield DatasetSample(raw.key, open_rgb(raw.image), raw.captions(), raw.metadata())

    def _foreign(self, dataset: CuratedDataset, shard: int) -> Iterator[DatasetSample]:
        """What was adopted is described by our table; the tar's own texts stay as they are."""
        rows = {row["key"]: row for row in dataset.rows(shard).to_pylist()}
        decode = open_rgb if self._view_px is not None else dataset.open_picture
        for key, picture in dataset.pictures(shard, self._view_px).items():
            row = rows[key]
            yield DatasetSample(key, decode(picture), tuple(row["captions"]), row)


def open_dataset(uri: str, view_px: int | None = None) -> Dataset:
    """Open a curated or adopted data set.

    Args:
        uri: Output folder of a run, or the folder of its finished curate stage.
        view_px: Side of the square views to read; None reads the pictures themselves.

    Raises:
        DataError: The folder holds no finished data set, or no views of that side.
    """
    if storage.exists(storage.join(uri, INDEX)):
        uri = stage_places(uri).get("curate", uri)
    return Dataset(manifest.read_manifest(uri), view_px)
