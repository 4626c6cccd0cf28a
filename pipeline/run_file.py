"""One YAML file describes one run: every section is owned by the folder that does its work.

Sections stand in the order of the work, and a run file may stop after any of them: with ``queries``
alone it builds a query list, with ``candidates`` and ``balance`` it chooses pairs, with ``curate``
it makes shards.
"""

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from pipeline import storage
from pipeline.candidates.config import SourceConfig
from pipeline.config import StrictModel
from pipeline.curation.config import BalanceStageConfig, CurateConfig, Prices
from pipeline.demo.config import SmallWebConfig
from pipeline.evaluation.config import EvaluateConfig
from pipeline.generation.config import GenerateConfig
from pipeline.queries.config import QueriesConfig
from pipeline.run_rules import RULES
from pipeline.runtime import RayConfig
from pipeline.shards.embed_config import EmbedConfig
from pipeline.shards.select_config import SelectConfig
from pipeline.tracking import TrackingConfig
from pipeline.training.config import TrainConfig, UpsamplerTaskConfig

Candidates = Annotated[SmallWebConfig | SourceConfig, Field(discriminator="type")]


class RunExecution(StrictModel):
    """How the run is carried out; no field here changes what comes out."""

    ray: RayConfig = RayConfig()
    tracking: TrackingConfig = TrackingConfig()
    prices: Prices = Prices()


class RunFile(StrictModel):
    """A chain, from candidates to evaluated pictures or as far as the run wants to go."""

    name: str
    """Name of the run in MLflow and in the report."""
    output_dir: Annotated[str, AfterValidator(storage.absolute)]
    """Folder (or URI) that holds everything the run writes; a relative one is made absolute, since
    workers have working directories of their own."""
    queries: QueriesConfig
    candidates: Candidates | None = None
    balance: BalanceStageConfig | None = None
    curate: CurateConfig | None = None
    clip: TrainConfig | None = None
    embed: EmbedConfig | None = None
    select: SelectConfig | None = None
    prior: TrainConfig | None = None
    decoder: TrainConfig | None = None
    upsamplers: tuple[TrainConfig, ...] = ()
    """Smallest first; each starts from the side at which the one before it ends."""
    generate: GenerateConfig | None = None
    evaluate: EvaluateConfig | None = None
    execution: RunExecution = RunExecution()

    @model_validator(mode="after")
    def _sections_agree(self) -> "RunFile":
        for rule in RULES:
            rule(self)
        return self

    def training_stages(self) -> list[tuple[str, TrainConfig]]:
        """Stage name and section of every model that the run trains, in order."""
        named = [("clip", self.clip), ("prior", self.prior), ("decoder", self.decoder)]
        return [*((n, each) for n, each in named if each is not None), *self.upsampler_stages()]

    def upsampler_stages(self) -> list[tuple[str, TrainConfig]]:
        """Stage name and section of every upsampler, such as ``upsampler_64_256``."""
        stages = []
        for config in self.upsamplers:
            if isinstance(config.task, UpsamplerTaskConfig):  # another kind is refused
                model = config.task.model
                name = f"upsampler_{model.low_px}_{model.high_px}"
            else:
                name = "upsamplers"
            stages.append((name, config))
        return stages
