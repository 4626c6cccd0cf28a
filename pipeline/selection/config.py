"""How samples are scored; imports nothing heavy."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from pipeline import storage
from pipeline.config import EXECUTION, PLACES, StrictModel

NAME = re.compile(r"[a-z][a-z0-9_]{0,60}")
OWN_COLUMNS = (
    "key", "cluster", "url", "side_px", "similarity", "queries",
    "overlap_set", "overlap_cosine", "overlap_bits",
)  # fmt: skip
"""Columns that every score table has."""


class HeadConfig(StrictModel):
    """A linear or small multi-layer head over image embeddings."""

    path: Annotated[str, AfterValidator(storage.absolute)] = Field(min_length=1)
    """Weights as ``pipeline.selection.heads.write_head`` writes them: a safetensors file that
    states its dimension, the scale of its input, its activation and what its output means."""


class EvaluationSetConfig(StrictModel):
    """Pictures that a model will be judged by, so that no training may see them."""

    path: str | None = None
    """A folder or glob of pictures, a tar of WebDataset, or a Parquet file of pictures."""
    paths: tuple[str, ...] = ()
    """Likewise several, in the place of ``path``."""
    image_column: str = "image"
    """Column of a Parquet file: encoded pictures, or structs that hold them as ``bytes``."""

    @model_validator(mode="after")
    def _names_one_place(self) -> "EvaluationSetConfig":
        if (self.path is None) == (not self.paths):
            raise ValueError(f"path={self.path!r} and paths={self.paths}: give one of the two")
        return self

    def places(self) -> tuple[str, ...]:
        """Where the pictures lie."""
        return self.paths if self.path is None else (self.path,)


class SemanticExecution(StrictModel):
    """How to search; nothing here changes what is found."""

    memory_bytes: int = Field(default=1 << 30, ge=1 << 20)
    """Memory for the embeddings of one task; a single cluster is always held whole."""


class SemanticConfig(StrictModel):
    """The search for pairs of pictures whose embeddings are almost the same."""

    floor: float = Field(gt=0, le=1)
    """Lowest cosine of a pair that is recorded; profiles choose their bounds at or above it."""
    num_clusters: int = Field(ge=1)
    """Clusters of spherical k-means; pairs are looked for within a cluster. About one per thousand
    samples; never more than there are samples."""
    seed: int = Field(ge=0)
    """Of the draw of samples from which the clusters are fitted."""
    iterations: int = Field(default=10, ge=1)
    """Of k-means."""
    sample_rows: int = Field(default=200_000, ge=1)
    """Samples that the clusters are fitted on, at most: those of lowest hash."""
    n_probe: int = Field(default=1, ge=1)
    """Nearest clusters that every sample is put into: more find pairs across borders, at that many
    times the cost."""
    max_pairs_per_sample: int = Field(default=100, ge=2)
    """Of a sample with more duplicates that would lead it in one cluster, so many are recorded:
    half of them the first leaders, half the closest. The manifest counts such samples."""
    execution: SemanticExecution = SemanticExecution()


class ScoreExecution(StrictModel):
    """How to score; nothing here changes what comes out."""

    keep_working_files: bool = False
    """Keep what the steps handed on when the stage is done."""


class ScoreConfig(StrictModel):
    """Numbers per sample, from its embedding and its shard's table."""

    heads: dict[str, HeadConfig] = Field(default_factory=dict)
    """Head per column name, such as ``aesthetic``."""
    columns: tuple[str, ...] = ()
    """Numeric columns of the shards' tables (of enrichers, or carried along) that come along; text
    that holds numbers is read as such."""
    evaluation_sets: dict[str, EvaluationSetConfig] = Field(default_factory=dict)
    """Pictures that profiles may keep away from, by name."""
    semantic: SemanticConfig | None = None
    """The search for semantic duplicates; none: there is none."""
    execution: ScoreExecution = ScoreExecution()

    @model_validator(mode="after")
    def _names_are_free(self) -> "ScoreConfig":
        taken = [*OWN_COLUMNS, *PLACES, EXECUTION]
        for name in [*sorted(self.heads), *self.columns]:
            if name in taken:
                raise ValueError(f"a head or column {name!r}: the name is taken; choose another")
            taken.append(name)
        for name in [*self.heads, *self.evaluation_sets]:
            if not NAME.fullmatch(name) or name in (*PLACES, EXECUTION):
                raise ValueError(
                    f"{name!r} is no name of a head or an evaluation set; use lower-case letters, "
                    f"digits and _, and none of {', '.join((*PLACES, EXECUTION))}"
                )
        return self

    def numeric_columns(self) -> tuple[str, ...]:
        """Columns of the score tables that profiles may bound, beside the tables' own."""
        return (*sorted(self.heads), *self.columns)
