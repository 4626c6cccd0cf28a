"""Settings for adopting a WebDataset that somebody else wrote; imports nothing heavy."""

from typing import Literal

from pydantic import Field, field_validator

from pipeline.config import StrictModel
from pipeline.images.config import DecodeConfig, DedupConfig, FilterConfig


class AdoptExecution(StrictModel):
    """How to adopt; nothing here changes what comes out."""

    manifests_beside: bool = True
    """Write ``<name>.manifest.json`` beside each tar, by which everybody who adopts it later sees
    whether it changed. Folders that nobody may write to are left as they are."""
    keep_working_files: bool = False
    """Keep what the steps handed on when the stage is done."""


class AdoptConfig(StrictModel):
    """A WebDataset of img2dataset, LAION, COYO, DataComp or of one's own, taken where it lies.

    A sample is one picture (jpg, jpeg, png, webp, gif) with a ``txt`` or ``json`` member of the
    same key. Nothing is copied but the small views.
    """

    type: Literal["webdataset"]
    path: str = Field(min_length=1)
    """A tar, a folder, a glob, or a range as in ``data/{00000..00331}.tar``; local, s3:// or
    gs://. Names of tars differ even where folders do."""
    caption_fields: tuple[str, ...] = ()
    """Fields of the ``json`` member that hold a caption or a list of captions, all of them used.
    None named: the ``txt`` member, or else the fields ``captions`` or ``caption``."""
    url_field: str = "url"
    """Field of the picture's address; samples without one are adopted too."""
    licence_field: str | None = None
    """Field of the picture's licence; None where nothing is known of it."""
    carried_fields: tuple[str, ...] = ()
    """Further fields that stay with every sample, as text (what is no text, as JSON), under their
    own names (``source_…`` where a sample has a column of that name)."""
    keys: Literal["stored", "with_shard"] = "stored"
    """``stored``: the keys of the tars, which must differ across all of them. ``with_shard``: the
    tar's name before each key, for data sets that number every tar from zero."""
    max_pixels: int = Field(default=64_000_000, ge=1)
    """Width × height as a picture's header states it; larger ones are dropped undecoded."""
    cpu_deadline_s: float = Field(default=20.0, gt=0)
    """CPU time for one picture; the process that needs more is killed and the sample dropped."""
    filters: FilterConfig | None = None
    """Thresholds for pictures and lists of those that shall not be taken, as for a crawl; None
    keeps all that can be decoded."""
    dedup: DedupConfig = DedupConfig()
    """When two pictures count as the same: such samples are kept, and share a cluster, so that no
    split parts them."""
    views_px: tuple[int, ...] = (64, 256)
    """Sides of the square views that are made, for the models that read them."""
    rejects_per_reason: int = Field(default=12, ge=0)
    """Dropped samples per reason that are kept for inspection."""
    max_damaged_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the tars, rounded up to whole ones, that may be left out because they are cut,
    damaged or hold what no shard may hold. Above it nothing is adopted."""
    execution: AdoptExecution = AdoptExecution()

    @field_validator("views_px")
    @classmethod
    def _check_views(cls, sides: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(sides)) < len(sides) or any(side < 8 for side in sides):
            raise ValueError(f"views_px={sides}: distinct sides of at least 8 are needed")
        return sides

    @field_validator("carried_fields")
    @classmethod
    def _no_name_twice(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"{twice[0]!r} is listed twice; list it once")
        return names

    @property
    def decoding(self) -> DecodeConfig:
        """How its pictures are decoded: never scaled, for no pool holds them."""
        return DecodeConfig(
            max_pixels=self.max_pixels, cpu_deadline_s=self.cpu_deadline_s, resize_mode="no"
        )

    def without_place(self) -> "AdoptConfig":
        """The same settings wherever the tars lie: what they are is said by the tars themselves."""
        return self.model_copy(update={"path": ""})
