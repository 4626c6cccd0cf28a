"""How samples are selected and split; imports nothing heavy."""

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


class ProfileConfig(StrictModel):
    """What one keep-list demands of a sample."""

    min_similarity: float | None = Field(default=None, ge=-1, le=1)
    """Lowest cosine of z_img and z_txt, of the picture's best caption; none means no bound."""
    min_side_px: int = Field(default=1, ge=1)
    """Lowest shorter side of the stored picture, pixels."""
    max_per_query: int | None = Field(default=None, ge=1)
    """Most samples that one query contributes: exact, chosen by hash; none means no bound."""


class SelectConfig(StrictModel):
    """Keep-lists made from shards and embeddings."""

    split: SplitConfig
    profiles: dict[str, ProfileConfig] = Field(min_length=1)
    """Keep-list per name, such as ``generative``."""
    remove_keys: tuple[str, ...] = ()
    """Takedowns: sample keys that no keep-list may hold."""
    remove_urls: tuple[str, ...] = ()
    """Takedowns: picture addresses that no keep-list may hold."""
