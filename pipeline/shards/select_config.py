"""How samples are selected and split; imports nothing heavy."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.config import StrictModel


class SplitConfig(StrictModel):
    """Shares of duplicate clusters that are held out; the rest is for training."""

    seed: int = Field(ge=0)
    validation_share: float = Field(ge=0, lt=1)
    """Share of clusters for validation during training."""
    test_share: float = Field(ge=0, lt=1)
    """Share of clusters that no training and no validation ever reads."""

    @model_validator(mode="after")
    def _leaves_training(self) -> "SplitConfig":
        if self.validation_share + self.test_share >= 1:
            raise ValueError(
                f"validation_share={self.validation_share} and test_share={self.test_share} "
                "leave nothing for training; their sum must be below 1"
            )
        return self


class BoundConfig(StrictModel):
    """What a score must lie within, both ends allowed; a missing number never does."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _bounds_something(self) -> "BoundConfig":
        if self.min is None and self.max is None:
            raise ValueError("a bound has a min, a max or both; give one, or leave the bound out")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min={self.min} is above max={self.max}: no sample lies between")
        return self


class ReweightConfig(StrictModel):
    """Weights that undo what a profile's filters did to the mix of pictures.

    A logistic regression on embeddings tells the data set as it was from what was kept; a kept
    sample weighs the odds that it is of the former (DALL·E 2's remedy against filter bias).
    """

    seed: int = Field(ge=0)
    """Of the draw of samples that the regression is fitted on."""
    iterations: int = Field(default=20, ge=1)
    """Newton steps."""
    sample_rows: int = Field(default=50_000, ge=1)
    """Samples of either side, at most: those of lowest hash."""
    ridge: float = Field(default=1.0, gt=0)
    """Penalty on the squared coefficients of standardised embeddings, in samples."""
    max_odds: float = Field(default=10.0, ge=1)
    """Odds are clipped to 1 / max_odds and max_odds before they are normalised to mean 1."""


class ProfileConfig(StrictModel):
    """What one keep-list demands of a sample; numbers are compared in float32."""

    min_similarity: float | None = Field(default=None, ge=-1, le=1)
    """Lowest cosine of z_img and z_txt, of the picture's best caption; none means no bound."""
    top_share: float | None = Field(default=None, gt=0, le=1)
    """Instead of a bound: the share of the data set with the highest similarity, before anything
    else is dropped; of N samples the ⌈share × N⌉ highest and all that equal the last of them."""
    min_side_px: int = Field(default=1, ge=1)
    """Lowest shorter side of the stored picture, pixels."""
    bounds: dict[str, BoundConfig] = Field(default_factory=dict)
    """Bounds on heads and carried columns (``score.heads``, ``score.columns``) by name."""
    max_overlap_bits: int | None = Field(default=None, ge=0, le=64)
    """Drop pictures whose perceptual hash differs from one of an evaluation set in so many bits or
    fewer."""
    min_overlap_cosine: float | None = Field(default=None, ge=-1, le=1)
    """Drop pictures whose embedding has this cosine or a higher one with one of an evaluation
    set."""
    semantic_min_cosine: float | None = Field(default=None, gt=0, le=1)
    """Pictures with this cosine or a higher one are duplicates: the one with the larger side stays
    (then the higher similarity, then the smaller key); what resembles only a dropped one stays
    too."""
    max_per_query: int | None = Field(default=None, ge=1)
    """Samples per query, after everything else; samples without a query are not counted and
    stay. None means no limit."""
    balance: Literal["sample", "cap"] = "cap"
    """How the limit is meant, as in the section ``balance``. ``cap``: every sample belongs to its
    rarest query, and no query owns more than the limit. ``sample``: every query keeps each of its
    samples with probability limit / count, and one query suffices."""
    reweight: ReweightConfig | None = None
    """Weights against the bias of this profile's filters; none: every sample weighs 1."""

    @model_validator(mode="after")
    def _one_rule_for_similarity(self) -> "ProfileConfig":
        if self.min_similarity is not None and self.top_share is not None:
            raise ValueError(
                f"min_similarity={self.min_similarity} and top_share={self.top_share} are two "
                "rules for one score; give one of them"
            )
        return self


class SelectConfig(StrictModel):
    """Keep-lists made from scores."""

    split: SplitConfig
    profiles: dict[str, ProfileConfig] = Field(min_length=1)
    """Keep-list per name, such as ``generative``."""
    remove_keys: tuple[str, ...] = ()
    """Takedowns: sample keys that no keep-list may hold."""
    remove_urls: tuple[str, ...] = ()
    """Takedowns: picture addresses that no keep-list may hold."""

    def reweights(self) -> bool:
        """Whether a profile needs embeddings."""
        return any(profile.reweight is not None for profile in self.profiles.values())

    def unscored(
        self, columns: tuple[str, ...], floor: float | None, *, has_sets: bool
    ) -> str | None:
        """What a profile asks for and the stage `score` does not make: rule and remedy, or None.

        Args:
            columns: Heads and carried columns that are scored.
            floor: Cosine from which pairs of duplicates are recorded; None: there are none.
            has_sets: Whether evaluation sets are compared.
        """
        for name, profile in sorted(self.profiles.items()):
            where = f"select.profiles.{name}"
            if unknown := sorted(set(profile.bounds) - set(columns)):
                return (
                    f"{where}.bounds: {unknown[0]!r} is not scored, only {columns}; add it to "
                    "score.heads or score.columns"
                )
            bound = profile.semantic_min_cosine
            if bound is not None and (floor is None or bound < floor):
                from_where = "no pairs are recorded" if floor is None else f"pairs begin at {floor}"
                return (
                    f"{where}.semantic_min_cosine={bound}: {from_where}; set score.semantic with a "
                    "floor of at most that"
                )
            overlaps = (profile.max_overlap_bits, profile.min_overlap_cosine)
            if overlaps != (None, None) and not has_sets:
                return (
                    f"{where} keeps away from evaluation sets and there are none; name them in "
                    "score.evaluation_sets, or leave its overlap bounds out"
                )
        return None

    def split_min_cosine(self) -> float | None:
        """From which cosine on no split may part two pictures; None where no profile says.

        It is the lowest that any profile counts as a duplicate.
        """
        bounds = [profile.semantic_min_cosine for profile in self.profiles.values()]
        return min((bound for bound in bounds if bound is not None), default=None)
