"""What each stage of a run is made of: its section, its inputs, its version, its function.

A version is raised whenever a stage's behaviour changes, so that old results are not taken for
new ones. Functions import their stage when they run: planning a run imports nothing heavy.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import BaseModel

from pipeline import storage
from pipeline.candidates.config import SourceConfig, WarcConfig
from pipeline.chain import given
from pipeline.chain.oracle import held_out, judge
from pipeline.curation.config import BalanceStageConfig, CurateConfig
from pipeline.curation.img2dataset_config import Img2datasetConfig
from pipeline.demo.config import SmallWebConfig
from pipeline.errors import ConfigError
from pipeline.evaluation.config import EvaluateConfig
from pipeline.generation.config import GenerateConfig
from pipeline.interop.config import ImportedModel
from pipeline.models.config import OpenClipConfig
from pipeline.progress import Progress
from pipeline.queries.config import QueriesConfig
from pipeline.results import Result, StageOutput
from pipeline.run_file import RunFile
from pipeline.run_rules import check_widths
from pipeline.selection.config import ScoreConfig
from pipeline.shards.adopt_config import AdoptConfig
from pipeline.shards.embed_config import EmbedConfig
from pipeline.shards.select_config import SelectConfig
from pipeline.tracking import StageRun
from pipeline.training.config import (
    AutoregressivePriorTaskConfig,
    LinearPriorTraining,
    TrainConfig,
)

OPT_OUTS = "opt_outs"
"""Folder of a run's ledger of opt-outs."""


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
    """Names of earlier stages, or of what the run starts from (``given.hashes``)."""
    run: Callable[[Any, Work], StageOutput]
    """Called with the stage's configuration."""

    @property
    def stage_inputs(self) -> list[str]:
        """The inputs that are stages."""
        return [name for name in self.inputs if not given.is_given(name)]


_Row = tuple[str, int, BaseModel | None, tuple[str, ...], Callable[[Any, Work], StageOutput]]


def stages(run: RunFile) -> list[Stage]:
    """The stages of a run in order: those whose sections the run file has."""
    names = run.upsampler_names()
    generative = ("curate", "clip", "embed", "select")
    has_prior = run.prior is not None or run.imports("prior")
    embedded = () if run.embed is None else ("embed",)
    models = ("clip", *embedded, *(("prior",) if has_prior else ()), "decoder", *names)
    # A list that no caption enters stays the same for other candidates.
    reads_captions = run.queries is not None and run.queries.reads_captions()
    listed = ("candidates", "query files") if reads_captions else ("query files",)
    crawled: tuple[str, ...] = ("balance",)
    if run.curate is not None and run.curate.crawl.earlier_crawls:
        crawled += (given.EARLIER_CRAWLS,)
    adopted: tuple[str, ...] = ("shards",)
    if given.filters(run).block_lists:
        crawled, adopted = (*crawled, given.BLOCK_LISTS), (*adopted, given.BLOCK_LISTS)
    judged = ("curate", "clip", "embed", "select", *names, "generate")
    rows: list[_Row] = [
        ("queries", 1, run.queries, listed, _queries),
        ("balance", 1, run.balance, ("candidates", "queries"), _balance),
        ("curate", 4, run.curate, crawled, _curate),
        ("curate", 1, run.img2dataset, ("balance",), _img2dataset),
        ("curate", 2, run.adopt and run.adopt.without_place(), adopted, _adopt),
        ("clip", 1, run.clip, ("curate", "split"), _training("clip")),
        ("clip", 1, run.open_clip and run.open_clip.without_place(), ("weights",), _open_clip),
        *_imported_rows(run, "clip"),
        ("embed", 2, run.embed, ("curate", "clip"), _embed),
        ("score", 1, run.scoring(), _scored(run), _score),
        ("select", 2, run.select, _selected(run), _select),
        ("prior", _prior_version(run), run.prior, generative, _training("prior")),
        ("decoder", 1, run.decoder, generative, _training("decoder")),
        *(
            (name, 1, config, ("curate", "select"), _training(name))
            for name, config in run.upsampler_stages()
        ),
        *_imported_rows(run, "prior", "decoder", *names),
        ("generate", 1, run.generate, models, _generate),
        ("evaluate", 1, run.evaluate, judged, _evaluate),
    ]
    return [
        Stage(name, version, config, inputs + given.inputs_of(run, name, config), function)
        for name, version, config, inputs, function in rows
        if config is not None
    ]


def _imported_rows(run: RunFile, *models: str) -> list[_Row]:
    """Stages whose models come from somewhere else; a prior and a decoder stand on the CLIP."""
    if run.imported is None:
        return []
    stand_on = {"prior": ("clip",), "decoder": ("clip",)}
    return [
        (
            name,
            1,
            run.imported.only(name),
            (*stand_on.get(name, ()), given.IMPORTED + name),
            _import,
        )
        for name in models
        if run.imports(name)
    ]


def _prior_version(run: RunFile) -> int:
    """Codes start as a random walk since version 2; other priors are what they were."""
    task = None if run.prior is None else run.prior.task
    return 2 if isinstance(task, AutoregressivePriorTaskConfig) else 1


def _scored(run: RunFile) -> tuple[str, ...]:
    """Inputs of the stage `score`."""
    config, inputs = run.scoring(), ("curate", "embed")
    if config is not None and config.heads:
        inputs += (given.HEADS,)
    if config is not None and config.evaluation_sets:
        inputs += ("clip", given.EVALUATION_SETS)
    return inputs


def _selected(run: RunFile) -> tuple[str, ...]:
    """Inputs of the stage `select`: embeddings only where a profile asks for them."""
    needs_embeddings = run.select is not None and run.select.reweights()
    return ("curate", "score", *(("embed",) if needs_embeddings else ()))


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


def source_of(run: RunFile) -> SourceConfig:
    """The candidates as files: the small web's pages are written once, as a web archive."""
    candidates = run.candidates
    assert candidates is not None
    if not isinstance(candidates, SmallWebConfig):
        return candidates
    from pipeline.demo.web import SmallWeb, write_warc

    name = given.small_web_hash(candidates)[:12]
    uri = storage.join(run.output_dir, "web", f"{name}.warc.gz")
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
    from ray.util import get_node_ip_address

    from pipeline.demo.server import LOOPBACK, serving
    from pipeline.demo.web import SmallWeb

    host = get_node_ip_address() if candidates.execution.listen == "node" else LOOPBACK
    with serving(candidates, host) as port:
        # Hosts that are gone are left out: their names must not resolve.
        resolve = dict.fromkeys(SmallWeb(candidates).hosts, f"{host}:{port}")
        mapped = config.crawl.execution.model_copy(update={"resolve": resolve})
        crawl = config.crawl.model_copy(update={"execution": mapped})
        yield config.model_copy(update={"crawl": crawl})


def _queries(config: QueriesConfig, work: Work) -> StageOutput:
    from pipeline.queries.build import build_queries

    if not config.reads_captions():
        return build_queries(config, None, work.uri, work.progress)
    candidates = source_of(work.run)
    config = config.for_sample(candidates.sample)
    return build_queries(config, candidates, work.uri, work.progress)


def _balance(config: BalanceStageConfig, work: Work) -> StageOutput:
    from pipeline.curation.balance import balance

    return balance(config, source_of(work.run), work.inputs["queries"], work.uri, work.progress)


def _curate(config: CurateConfig, work: Work) -> StageOutput:
    from pipeline.curation.curate import curate

    with _world(_with_ledger(config, work), work) as settings:
        return curate(
            settings, source_of(work.run), work.inputs["balance"], work.uri, work.progress
        )


def _with_ledger(config: CurateConfig, work: Work) -> CurateConfig:
    """Opt-outs are remembered with the run, unless it names another ledger."""
    execution = config.crawl.execution
    if execution.opt_out_ledger is not None:
        return config
    ledger = storage.absolute(storage.join(work.run.output_dir, OPT_OUTS))
    named = execution.model_copy(update={"opt_out_ledger": ledger})
    crawl = config.crawl.model_copy(update={"execution": named})
    return config.model_copy(update={"crawl": crawl})


def _training(name: str) -> Callable[[TrainConfig | LinearPriorTraining, Work], StageOutput]:
    def run_training(config: TrainConfig | LinearPriorTraining, work: Work) -> StageOutput:
        from pipeline.training.launch import train
        from pipeline.training.linear_prior import fit_linear_prior

        if isinstance(config, LinearPriorTraining):
            return fit_linear_prior(config, work.inputs, work.uri, work.progress)
        assert work.run.select is not None
        return train(
            name,
            config,
            work.inputs,
            work.uri,
            work.progress,
            split=work.run.select.split,
            removed=given.removed(work.run),
            on_metrics=work.tracked.publish,
            on_grid=work.tracked.log_picture,
        )

    return run_training


def _img2dataset(config: Img2datasetConfig, work: Work) -> StageOutput:
    from pipeline.curation.img2dataset_run import curate_by_img2dataset

    return curate_by_img2dataset(config, work.inputs["balance"], work.uri, work.progress)


def _adopt(config: AdoptConfig, work: Work) -> StageOutput:
    from pipeline.shards.adopt import adopt

    assert work.run.adopt is not None
    return adopt(work.run.adopt, work.uri, work.progress)


def _open_clip(config: OpenClipConfig, work: Work) -> StageOutput:
    from pipeline.interop.open_clip import import_stage

    assert work.run.open_clip is not None
    return import_stage(work.run.open_clip, work.uri, partial(check_widths, work.run))


def _import(config: ImportedModel, work: Work) -> StageOutput:
    from pipeline.interop.imported import import_stage

    assert work.run.imported is not None
    check, clip = partial(check_widths, work.run), work.inputs.get("clip")
    output = import_stage(work.run.imported, config.model, clip, work.uri, check)
    for name in output.content["left_out"]:
        work.progress.say(f"{config.model}: {name} is left out, our models have no place for it")
    return output


def _embed(config: EmbedConfig, work: Work) -> StageOutput:
    from pipeline.shards.embeddings import embed

    return embed(config, work.inputs["curate"], work.inputs["clip"], work.uri, work.progress)


def _score(config: ScoreConfig, work: Work) -> StageOutput:
    from pipeline.selection.score import score

    return score(config, work.inputs, work.uri, work.progress)


def _select(config: SelectConfig, work: Work) -> StageOutput:
    from pipeline.selection.select import select
    from pipeline.shards import removals

    named = removals.keys_in(work.inputs["curate"], removals.read(work.run.output_dir))
    config = config.model_copy(update={"remove_keys": (*config.remove_keys, *named)})
    return select(config, work.inputs, work.uri, work.progress)


def _generate(config: GenerateConfig, work: Work) -> StageOutput:
    from pipeline.generation.batch import generate

    return generate(config, work.inputs, held_out(config, work.run), work.uri, work.progress)


def _evaluate(config: EvaluateConfig, work: Work) -> StageOutput:
    from pipeline.evaluation.evaluate import evaluate

    oracle = judge(config, work.run)
    return evaluate(config, work.inputs, oracle, work.uri, work.progress)
