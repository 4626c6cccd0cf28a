"""Where a run's candidates come from."""

from typing import Literal

from pydantic import Field, field_validator

from pipeline.config import StrictModel

CANDIDATE_COLUMNS = ("url", "url_id", "uid", "caption", "page_url", "licence", "query_ids")


class CaptionFilterConfig(StrictModel):
    """Which captions are worth matching."""

    min_chars: int = Field(default=5, ge=1)
    """Least number of characters."""
    min_words: int = Field(default=2, ge=1)
    """Least number of words (runs between spaces)."""
    max_chars: int | None = Field(default=None, ge=1)
    """Largest number of characters; None sets no limit."""
    max_words: int | None = Field(default=None, ge=1)
    """Largest number of words; None sets no limit."""
    languages: tuple[str, ...] = ()
    """Languages that are kept, in codes of ISO 639-1 (``en``); with none named, all are kept."""
    min_language_score: float = Field(default=0.2, ge=0, le=1)
    """Least probability of all ``languages`` together; two words seldom reach 0.5 even in the right
    one, other languages' sentences hardly 0.05."""
    max_repeats: int = Field(default=10, ge=1)
    """A caption on more pictures than this says nothing about any of them: all fall."""


class SourceExecution(StrictModel):
    """When reading gives up; nothing here changes what is read."""

    max_damaged_share: float = Field(default=0.1, ge=0, le=1)
    """Share of files, rounded up to whole ones, that may be damaged in whole or in part. Above it
    the job stops before anything is crawled."""


class SourceSettings(StrictModel):
    """What every kind of source has."""

    sample: float = Field(default=1.0, gt=0, le=1)
    """Share of the pictures that are used, drawn by their addresses' hashes: the same ones whatever
    the partitioning, and a larger share holds a smaller one. Below 1 the run is a pilot."""
    execution: SourceExecution = SourceExecution()


class CarryingSettings(SourceSettings):
    """What sources have that are tables."""

    carried_columns: tuple[str, ...] = ()
    """Further columns that stay with every candidate, down to the shards' tables, under their own
    names (``source_…`` where a sample has a column of that name: ``width``, ``sha256``)."""

    @field_validator("carried_columns")
    @classmethod
    def _no_name_twice(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        kept_as = [*CANDIDATE_COLUMNS, *(f"source_{name}" for name in names)]
        taken = [name for name in names if name in kept_as or names.count(name) > 1]
        if taken:
            raise ValueError(
                f"{taken[0]!r} is a candidate's own column or is listed twice; leave it out, or "
                "name it in url_column, caption_column, page_url_column or licence_column"
            )
        return names


class UrlTableConfig(CarryingSettings):
    """Tables of addresses and captions, as img2dataset and LAION write them."""

    type: Literal["url_table"]
    path: str = Field(min_length=1)
    """A file, a folder or a glob, local or s3:// or gs://. Parquet, CSV, TSV, JSON or JSON lines
    by the name's ending; the text formats also as ``.gz``."""
    url_column: str = "url"
    """Column of the picture's address, or of its path where ``url_prefix`` is given."""
    caption_column: str = "caption"
    """Column of the caption."""
    url_prefix: str = ""
    """Written before every value of ``url_column`` that is no http(s) address itself."""
    page_url_column: str | None = None
    """Column of the address of the page that shows the picture; None where the table has none."""
    licence_column: str | None = None
    """Column of the picture's licence; None where the table has none."""


class ArchiveSettings(SourceSettings):
    """What sources have that are Common Crawl's files."""

    path: str = Field(min_length=1)
    """A file, a folder or a glob of archives, local or s3:// or gs:// or https://; or a list of
    them, ``.paths`` or ``.paths.gz`` as Common Crawl publishes it: one path per line."""
    prefix: str = ""
    """Written before every path of a list: ``https://data.commoncrawl.org/``,
    ``s3://commoncrawl/`` or a local folder."""


class WarcConfig(ArchiveSettings):
    """Web archives (``.warc``, ``.warc.gz``): pictures and alternative texts of their pages."""

    type: Literal["warc"]


class WatConfig(ArchiveSettings):
    """Extracts of web archives (``.wat``, ``.wat.gz``): the same of less, in a sixth of the bytes.

    They hold ``src``, ``alt`` and ``title``, neither ``srcset`` nor ``data-src``: of a picture that
    a script loads later they know no address, or that of the picture shown until then.
    """

    type: Literal["wat"]


class FolderConfig(CarryingSettings):
    """A folder of pictures with their captions, on this machine or on an object store."""

    type: Literal["folder"]
    path: str = Field(min_length=1)
    """The folder; pictures are found at every depth and read from nowhere else."""
    captions: str | None = None
    """Table inside the folder (any format of ``url_table``); None where each picture has a text
    file of its own beside it, as in ``00000/000000012.jpg`` and ``00000/000000012.txt``."""
    file_column: str = "file_name"
    """Column of the picture's path, relative to the table's folder."""
    caption_column: str = "caption"
    """Column of the caption."""
    licence_column: str | None = None
    """Column of the picture's licence; None where the table has none."""


SourceConfig = UrlTableConfig | WarcConfig | WatConfig | FolderConfig
"""Any kind of source; ``type`` tells which."""
