"""What each stage of a run is made of: its section, its inputs, its version, its function.

A version is raised whenever a stage's behaviour changes, so that old results are not taken for
new ones. Functions import their stage when they run: planning a run imports nothing heavy.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from pipeline import storage
from pipeline.candidates.config import SourceConfig, WarcConfig
from pipeline.config import semantic
from pipeline.curation.config import BalanceStageConfig, CurateConfig
from pipeline.demo.config import SmallWebConfig
from pipeline.errors import ConfigError
from pipeline.evaluation.config import EvaluateConfig
from pipeline.generation.config import GenerateConfig, PromptFile
from pipeline.identity import fingerprint
from pipeline.progress import Progress
from pipeline.queries.config import QueriesConfig
from pipeline.results import Result, StageOutput
from pipeline.run_file import RunFile
from pipeline.shards.embed_config import EmbedConfig
from pipeline.shards.select_config import SelectConfig
from pipeline.tracking import StageRun
from pipeline.training.config import DecoderTaskConfig, TrainConfig, UpsamplerTaskConfig

if TYPE_CHECKING:
    from PIL import Image

    from pipeline.evaluation.judges import TestedJudge
    from pipeline.generation.prompts import Prompt

NUM_KNOWN = 512
"""Renderings of known content by which the oracle itself is judged; damaged ones come on top."""
FOREIGN = ("candidates", "query files", "split", "prompts")
"""Inputs that are no stages: what ``foreign_hashes`` names."""
SMALL_WEB_VERSION = 1
"""Raised when the small web's pages or pictures change."""


@dataclass(frozen=True)
class Work:
    """What a stage function is given."""

    uri: str
    """Folder for the stage's files."""
    inputs: dict[str, Result]
    run: RunFile
    progress: Progress
    tracked: StageRun


@dataclass(frozen=True)
class Stage:
    """One stage of a run."""

    name: str
    version: int
    config: BaseModel
    inputs: tuple[str, ...]
    """Names of earlier stages, or of what the run starts from (``foreign_hashes``)."""
    run: Callable[[Any, Work], StageOutput]
    """Called with the stage's configuration."""

    @property
    def stage_inputs(self) -> list[str]:
        """The inputs that are stages."""
        return [name for name in self.inputs if name not in FOREIGN]


_Row = tuple[str, int, BaseModel | None, tuple[str, ...], Callable[[Any, Work], StageOutput]]


def stages(run: RunFile) -> list[Stage]:
    """The stages of a run in order: those whose sections the run file has."""
    upsamplers = run.upsampler_stages()
    names = [name for name, _ in upsamplers]
    generative = ("curate", "clip", "embed", "select")
    models = ("clip", "embed", "prior", "decoder", *names)
    if run.generate is not None and isinstance(run.generate.prompts, PromptFile):
        models += ("prompts",)
    # A list that no caption enters stays the same for other candidates.
    listed = ("candidates", "query files") if run.queries.reads_captions() else ("query files",)
    scored = ("curate", "clip", "embed", "select", *names, "generate")
    rows: list[_Row] = [
        ("queries", 1, run.queries, listed, _queries),
        ("balance", 1, run.balance, ("candidates", "queries"), _balance),
        ("curate", 2, run.curate, ("balance",), _curate),
        ("clip", 1, run.clip, ("curate", "split"), _training("clip")),
        ("embed", 1, run.embed, ("curate", "clip"), _embed),
        ("select", 1, run.select, ("curate", "embed"), _select),
        ("prior", 1, run.prior, generative, _training("prior")),
        ("decoder", 1, run.decoder, generative, _training("decoder")),
        *((name, 1, config, ("curate", "select"), _training(name)) for name, config in upsamplers),
        ("generate", 1, run.generate, models, _generate),
        ("evaluate", 1, run.evaluate, scored, _evaluate),
    ]
    return [
        Stage(name, version, config, inputs, function)
        for name, version, config, inputs, function in rows
        if config is not None
    ]


def check_stages(run: RunFile, names: Sequence[str]) -> None:
    """Refuse stages that the run file says nothing about.

    Raises:
        ConfigError: A section is missing.
    """
    known = [stage.name for stage in stages(run)]
    for name in names:
        if name not in known:
            raise ConfigError(
                f"this run file has no section for the stage {name}, only for {', '.join(known)}"
            )


def foreign_hashes(run: RunFile) -> dict[str, str]:
    """Identity of what the run starts from, by name, beside each stage's own section.

    ``candidates`` (files, or the small web), ``query files``, ``prompts`` (a file of them), and
    ``split``: the part of ``select`` that CLIP's training, which comes before it, must already
    obey.
    """
    from pipeline.candidates import sources
    from pipeline.queries.build import sources_hash

    hashes = {"query files": sources_hash(run.queries)}
    if isinstance(run.candidates, SmallWebConfig):
        small_web = {"version": SMALL_WEB_VERSION, **semantic(run.candidates)}
        hashes["candidates"] = fingerprint(small_web)
    elif run.candidates is not None:
        hashes["candidates"] = fingerprint(sources.identity(run.candidates))
    if run.select is not None:
        hashes["split"] = fingerprint(semantic(run.select.split))
    if run.generate is not None and isinstance(run.generate.prompts, PromptFile):
        from pipeline.generation.prompts import read_prompts

        texts = [prompt.text for prompt in read_prompts(run.generate.prompts)]
        hashes["prompts"] = fingerprint(texts)
    return hashes


def preflight(run: RunFile) -> None:
    """Refuse, before anything is started, what would fail later.

    Raises:
        ConfigError: A file is missing or unreadable, or a configured port is in use.
    """
    from pipeline.candidates import sources

    if isinstance(run.candidates, SmallWebConfig):
        from pipeline.demo.server import bind

        bind(run.candidates.execution.port).close()
    elif run.candidates is not None:
        sources.plan(run.candidates)


def _table(work: Work) -> SourceConfig:
    """The candidates as files: the small web's pages are written once, as a web archive."""
    candidates = work.run.candidates
    assert candidates is not None
    if not isinstance(candidates, SmallWebConfig):
        return candidates
    from pipeline.demo.web import SmallWeb, write_warc

    name = fingerprint({"version": SMALL_WEB_VERSION, **semantic(candidates)})[:12]
    uri = storage.join(work.run.output_dir, "web", f"{name}.warc.gz")
    if not storage.exists(uri):
        with storage.temporary_path(uri) as temporary:
            write_warc(SmallWeb(candidates), temporary)
    return WarcConfig(type="warc", path=uri, sample=candidates.sample)


@contextlib.contextmanager
def _world(config: CurateConfig, work: Work) -> Iterator[CurateConfig]:
    """The curation's settings, with the small web answering while the block runs."""
    candidates = work.run.candidates
    if not isinstance(candidates, SmallWebConfig):
        yield config
        return
    from pipeline.demo.server import LOOPBACK, serving
    from pipeline.demo.web import SmallWeb

    with serving(candidates) as port:
        # Hosts that are gone are left out: their names must not resolve.
        resolve = dict.fromkeys(SmallWeb(candidates).hosts, f"{LOOPBACK}:{port}")
        mapped = config.crawl.execution.model_copy(update={"resolve": resolve})
        crawl = config.crawl.model_copy(update={"execution": mapped})
        yield config.model_copy(update={"crawl": crawl})


def _queries(config: QueriesConfig, work: Work) -> StageOutput:
    from pipeline.queries.build import build_queries

    if not config.reads_captions():
        return build_queries(config, None, work.uri, work.progress)
    candidates = _table(work)
    config = config.for_sample(candidates.sample)
    return build_queries(config, candidates, work.uri, work.progress)


def _balance(config: BalanceStageConfig, work: Work) -> StageOutput:
    from pipeline.curation.balance import balance

    return balance(config, _table(work), work.inputs["queries"], work.uri, work.progress)


def _curate(config: CurateConfig, work: Work) -> StageOutput:
    from pipeline.curation.curate import curate

    with _world(config, work) as settings:
        return curate(settings, _table(work), work.inputs["balance"], work.uri, work.progress)


def _training(name: str) -> Callable[[TrainConfig, Work], StageOutput]:
    def run_training(config: TrainConfig, work: Work) -> StageOutput:
        from pipeline.training.launch import train

        assert work.run.select is not None
        return train(
            name,
            config,
            work.inputs,
            work.uri,
            work.progress,
            split=work.run.select.split,
            on_metrics=work.tracked.publish,
            on_grid=work.tracked.log_picture,
        )

    return run_training


def _embed(config: EmbedConfig, work: Work) -> StageOutput:
    from pipeline.shards.embeddings import embed

    return embed(config, work.inputs["curate"], work.inputs["clip"], work.uri, work.progress)


def _select(config: SelectConfig, work: Work) -> StageOutput:
    from pipeline.shards.selection import select

    return select(config, work.inputs["curate"], work.inputs["embed"], work.uri, work.progress)


def _generate(config: GenerateConfig, work: Work) -> StageOutput:
    from pipeline.generation.batch import generate

    return generate(config, work.inputs, _held_out(config, work.run), work.uri, work.progress)


def _held_out(config: GenerateConfig, run: RunFile) -> "list[Prompt]":
    """The small web's held-out prompts; none where the run has no small web."""
    from pipeline.demo.captions import held_out_prompts
    from pipeline.generation.prompts import Prompt

    if not isinstance(run.candidates, SmallWebConfig):
        return []
    found = held_out_prompts(config.num_pictures, config.seed)
    return [Prompt(text, truth._asdict()) for text, truth in found]


def _judge(config: EvaluateConfig, run: RunFile) -> "TestedJudge | None":
    """The oracle, with the renderings that show how far it can be trusted."""
    from pipeline.demo import known
    from pipeline.demo.shapes import Combination
    from pipeline.evaluation.judges import NONE_LABEL, KnownPicture, TestedJudge

    if not isinstance(run.candidates, SmallWebConfig):
        return None
    side, seed = _final_side(run), config.seed
    pictures = []
    for index in range(NUM_KNOWN):
        truth, picture = known.clean(index, side, seed)
        pictures.append(KnownPicture(picture, truth._asdict()))
    nothing = dict.fromkeys(Combination._fields, NONE_LABEL)
    for index in range(NUM_KNOWN // 4):
        pictures.append(KnownPicture(known.damaged(index, side, seed)[1], nothing))
    return TestedJudge(_read_shape, pictures)


def _final_side(run: RunFile) -> int:
    task = run.training_stages()[-1][1].task
    assert isinstance(task, DecoderTaskConfig | UpsamplerTaskConfig)
    return task.model.high_px if isinstance(task, UpsamplerTaskConfig) else task.model.image_px


def _read_shape(picture: "Image.Image") -> dict[str, str | None]:
    from pipeline.demo.oracle import read

    return asdict(read(picture))


def _evaluate(config: EvaluateConfig, work: Work) -> StageOutput:
    from pipeline.evaluation.evaluate import evaluate

    judge = _judge(config, work.run)
    return evaluate(config, work.inputs, judge, work.uri, work.progress)
