"""One YAML file describes one run: every section is owned by the folder that does its work."""

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from pipeline import storage
from pipeline.candidates.config import UrlTableConfig, WarcConfig
from pipeline.config import StrictModel
from pipeline.curation.config import CurateConfig
from pipeline.demo.config import SmallWebConfig
from pipeline.evaluation.config import EvaluateConfig
from pipeline.generation.config import GenerateConfig
from pipeline.queries.config import QueriesConfig
from pipeline.runtime import RayConfig
from pipeline.shards.embed_config import EmbedConfig
from pipeline.shards.select_config import SelectConfig
from pipeline.tracking import TrackingConfig
from pipeline.training.config import (
    ClipTaskConfig,
    DecoderTaskConfig,
    PriorTaskConfig,
    TrainConfig,
    UpsamplerTaskConfig,
)

Candidates = Annotated[SmallWebConfig | UrlTableConfig | WarcConfig, Field(discriminator="type")]


class RunExecution(StrictModel):
    """How the run is carried out; no field here changes what comes out."""

    ray: RayConfig = RayConfig()
    tracking: TrackingConfig = TrackingConfig()


class RunFile(StrictModel):
    """A whole chain, from candidates to evaluated pictures."""

    name: str
    """Name of the run in MLflow and in the report."""
    output_dir: Annotated[str, AfterValidator(storage.absolute)]
    """Folder (or URI) that holds everything the run writes; a relative one is made absolute, since
    workers have working directories of their own."""
    candidates: Candidates
    queries: QueriesConfig
    curate: CurateConfig
    clip: TrainConfig
    embed: EmbedConfig
    select: SelectConfig
    prior: TrainConfig
    decoder: TrainConfig
    upsamplers: tuple[TrainConfig, ...]
    """Smallest first; each starts from the side at which the one before it ends."""
    generate: GenerateConfig
    evaluate: EvaluateConfig
    execution: RunExecution = RunExecution()

    @model_validator(mode="after")
    def _every_task_in_its_section(self) -> "RunFile":
        wanted = [
            ("clip", self.clip, ClipTaskConfig),
            ("prior", self.prior, PriorTaskConfig),
            ("decoder", self.decoder, DecoderTaskConfig),
            *(("upsamplers", each, UpsamplerTaskConfig) for each in self.upsamplers),
        ]
        for section, config, kind in wanted:
            if not isinstance(config.task, kind):
                raise ValueError(f"section {section} holds a task of type {config.task.type}")
        return self

    @model_validator(mode="after")
    def _sides_join(self) -> "RunFile":
        assert isinstance(self.decoder.task, DecoderTaskConfig)
        side = self.decoder.task.model.image_px
        for upsampler in self.upsamplers:
            assert isinstance(upsampler.task, UpsamplerTaskConfig)
            if upsampler.task.model.low_px != side:
                raise ValueError(
                    f"an upsampler reads {upsampler.task.model.low_px} px, the model before it "
                    f"makes {side} px"
                )
            side = upsampler.task.model.high_px
        return self

    @model_validator(mode="after")
    def _views_exist(self) -> "RunFile":
        views = self.curate.shards.views_px
        for section, view_px in self._view_sides():
            if view_px not in views:
                raise ValueError(
                    f"{section} reads a {view_px} px view, curate.shards.views_px={views}"
                )
        return self

    def _view_sides(self) -> list[tuple[str, int]]:
        sides = []
        for section, config in [("decoder", self.decoder), *self.upsampler_stages()]:
            if isinstance(config.task, DecoderTaskConfig | UpsamplerTaskConfig):
                sides.append((section, config.task.view_px))
        return sides

    def upsampler_stages(self) -> list[tuple[str, TrainConfig]]:
        """Stage name and section of every upsampler, such as ``upsampler_64_256``."""
        stages = []
        for config in self.upsamplers:
            assert isinstance(config.task, UpsamplerTaskConfig)
            model = config.task.model
            stages.append((f"upsampler_{model.low_px}_{model.high_px}", config))
        return stages
