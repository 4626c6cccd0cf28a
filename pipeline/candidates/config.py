"""Where a run's candidates come from."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from pipeline.config import StrictModel

CANDIDATE_COLUMNS = ("url", "url_id", "uid", "caption", "page_url", "licence", "sha256")


class UrlTableConfig(StrictModel):
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
    sha256_column: str | None = None
    """Column of the hex SHA-256 of the picture's bytes; None where the table has none."""
    carried_columns: tuple[str, ...] = ()
    """Further columns that stay with every candidate under their own names."""

    @field_validator("carried_columns")
    @classmethod
    def _no_name_twice(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        taken = [name for name in names if name in CANDIDATE_COLUMNS or names.count(name) > 1]
        if taken:
            raise ValueError(
                f"{taken[0]!r} is a candidate's own column or is listed twice; leave it out, or "
                "name it in url_column, caption_column, page_url_column, licence_column or "
                "sha256_column"
            )
        return names


class WarcConfig(StrictModel):
    """Web archives in Common Crawl's form: the pictures and alternative texts of their pages."""

    type: Literal["warc"]
    path: str = Field(min_length=1)
    """A file, a folder or a glob of ``.warc`` or ``.warc.gz`` files, local or s3:// or gs://."""


SourceConfig = Annotated[UrlTableConfig | WarcConfig, Field(discriminator="type")]
