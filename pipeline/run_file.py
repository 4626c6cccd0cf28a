"""One YAML file describes one run: every section is owned by the folder that does its work.

Sections stand in the order of the work, and a run file may stop after any of them: with ``queries``
alone it builds a query list, with ``candidates`` and ``balance`` it chooses pairs, with ``curate``
it makes shards. Or it starts from shards that are there (``adopt``), from a CLIP that is there
(``open_clip``), from models that are there (``imported``).
"""

from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from pipeline import storage
from pipeline.candidates.config import SourceConfig
from pipeline.config import StrictModel
from pipeline.curation.config import BalanceStageConfig, CurateConfig, Prices
from pipeline.curation.img2dataset_config import Img2datasetConfig
from pipeline.demo.config import SmallWebConfig
from pipeline.evaluation.config import EvaluateConfig, ProtocolsConfig
from pipeline.generation.config import GenerateConfig
from pipeline.interop.config import ImportedConfig, sides
from pipeline.models.config import OpenClipConfig
from pipeline.queries.config import QueriesConfig
from pipeline.run_rules import RULES
from pipeline.runtime import RayConfig
from pipeline.selection.config import ScoreConfig
from pipeline.serving.config import ServeConfig
from pipeline.shards.adopt_config import AdoptConfig
from pipeline.shards.embed_config import EmbedConfig
from pipeline.shards.select_config import SelectConfig
from pipeline.tracking_store import TrackingConfig
from pipeline.training.config import LinearPriorTraining, TrainConfig, UpsamplerTaskConfig


def _kind_of_prior(section: Any) -> str:  # noqa: ANN401 - whatever a run file holds
    """A prior in closed form has no steps, batches or learning rate to state."""
    task = section.get("task") if isinstance(section, dict) else getattr(section, "task", None)
    kind = task.get("type") if isinstance(task, dict) else getattr(task, "type", None)
    return (LinearPriorTraining if kind == "linear_prior" else TrainConfig).__name__


Prior = Annotated[
    Annotated[TrainConfig, Tag(TrainConfig.__name__)]
    | Annotated[LinearPriorTraining, Tag(LinearPriorTraining.__name__)],
    Discriminator(_kind_of_prior),
]
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
    output_dir: Annotated[str, AfterValidator(storage.place_for_results)]
    """Folder (or URI) that holds everything the run writes; a relative one is made absolute, since
    workers have working directories of their own."""
    queries: QueriesConfig | None = None
    candidates: Candidates | None = None
    balance: BalanceStageConfig | None = None
    curate: CurateConfig | None = None
    img2dataset: Img2datasetConfig | None = None
    """Instead of ``curate``: img2dataset downloads, its shards are adopted as the stage."""
    adopt: AdoptConfig | None = None
    """Instead of ``queries`` to ``curate``: somebody else's shards, as the stage ``curate``."""
    clip: TrainConfig | None = None
    open_clip: OpenClipConfig | None = None
    """Instead of ``clip``: weights that are there already, as the stage ``clip``."""
    imported: ImportedConfig | None = None
    """Instead of the sections of its models: diffusers' or Karlo's, as their stages."""
    embed: EmbedConfig | None = None
    score: ScoreConfig | None = None
    """What ``select`` chooses by; without this section, by what `embed` and the shards say."""
    select: SelectConfig | None = None
    prior: Prior | None = None
    """By ``task.type``: ``prior`` (diffusion), ``autoregressive_prior`` or ``linear_prior``."""
    rival_priors: tuple[Prior, ...] = ()
    """Priors beside ``prior``, which ``jobs.evaluate --protocol priors`` trains on the same
    keep-list and compares with it; no stage of the run reads them."""
    decoder: TrainConfig | None = None
    upsamplers: tuple[TrainConfig, ...] = ()
    """Smallest first; each starts from the side at which the one before it ends."""
    generate: GenerateConfig | None = None
    evaluate: EvaluateConfig | None = None
    protocols: ProtocolsConfig = ProtocolsConfig()
    """What ``jobs.evaluate --protocol`` measures; no stage of the run reads it."""
    serving: ServeConfig | None = None
    """How ``jobs.serve`` answers; no stage of the run reads it."""
    execution: RunExecution = RunExecution()

    @model_validator(mode="after")
    def _sections_agree(self) -> "RunFile":
        for rule in RULES:
            rule(self)
        return self

    def scoring(self) -> ScoreConfig | None:
        """The section ``score``, or its defaults where ``select`` needs scores; None: neither."""
        return self.score or (ScoreConfig() if self.select is not None else None)

    def imports(self, model: str) -> bool:
        """Whether a model comes from somewhere else, by the name of its stage."""
        return self.imported is not None and model in self.imported.models

    def training_stages(self) -> list[tuple[str, TrainConfig]]:
        """Stage name and section of every model that the run trains in steps, in order."""
        named = [("clip", self.clip), ("prior", self.prior), ("decoder", self.decoder)]
        in_steps = [(name, each) for name, each in named if isinstance(each, TrainConfig)]
        return [*in_steps, *self.upsampler_stages()]

    def model_stages(self) -> list[str]:
        """Names of the stages that make a model from data, in steps or in closed form."""
        names = [name for name, _ in self.training_stages()]
        closed = isinstance(self.prior, LinearPriorTraining)
        return [*names, "prior"] if closed else names

    def views_px(self) -> tuple[int, ...]:
        """Sides of the views that the run makes."""
        if self.adopt is not None:
            return self.adopt.views_px
        if self.img2dataset is not None:
            return self.img2dataset.views_px
        return self.curate.shards.views_px if self.curate is not None else ()

    def upsampler_names(self) -> list[str]:
        """Stage names of all upsamplers, trained or imported, smallest first."""
        imported = [] if self.imported is None else self.imported.upsamplers()
        return sorted([*imported, *(name for name, _ in self.upsampler_stages())], key=sides)

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
