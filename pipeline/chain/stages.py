"""What each stage of a run is made of: its section, its inputs, its version, its function.

A version is raised whenever a stage's behaviour changes, so that old results are not taken for
new ones. Functions import their stage when they run: planning a run imports nothing heavy.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel

from pipeline import storage
from pipeline.candidates.config import UrlTableConfig, WarcConfig
from pipeline.config import semantic
from pipeline.curation.config import CurateConfig
from pipeline.demo.config import SmallWebConfig
from pipeline.identity import fingerprint
from pipeline.progress import Progress
from pipeline.results import Result, StageOutput
from pipeline.run_file import RunFile
from pipeline.tracking import StageRun
from pipeline.training.config import DecoderTaskConfig, TrainConfig, UpsamplerTaskConfig

if TYPE_CHECKING:
    from PIL import Image

    from pipeline.evaluation.judges import TestedJudge
    from pipeline.generation.prompts import Prompt

NUM_KNOWN = 512
"""Renderings of known content by which the oracle itself is judged; damaged ones come on top."""
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
    run: Callable[[Work], StageOutput]


def stages(run: RunFile) -> list[Stage]:
    """The stages of a run in order."""
    upsamplers = run.upsampler_stages()
    names = [name for name, _ in upsamplers]
    generative = ("curate", "clip", "embed", "select")
    models = ("clip", "embed", "prior", "decoder", *names)
    return [
        Stage("queries", 1, run.queries, ("candidates", "query files"), _queries),
        Stage("curate", 1, run.curate, ("candidates", "queries"), _curate),
        Stage("clip", 1, run.clip, ("curate", "split"), _training("clip")),
        Stage("embed", 1, run.embed, ("curate", "clip"), _embed),
        Stage("select", 1, run.select, ("curate", "embed"), _select),
        Stage("prior", 1, run.prior, generative, _training("prior")),
        Stage("decoder", 1, run.decoder, generative, _training("decoder")),
        *(
            Stage(name, 1, config, ("curate", "select"), _training(name))
            for name, config in upsamplers
        ),
        Stage("generate", 1, run.generate, models, _generate),
        Stage(
            "evaluate",
            1,
            run.evaluate,
            ("curate", "clip", "embed", "select", *names, "generate"),
            _evaluate,
        ),
    ]


def foreign_hashes(run: RunFile) -> dict[str, str]:
    """Identity of what the run starts from, by name, beside each stage's own section.

    ``candidates`` (files, or the small web), ``query files``, and ``split``: the part of
    ``select`` that CLIP's training, which comes before it, must already obey.
    """
    from pipeline.candidates import sources
    from pipeline.queries.build import sources_hash

    if isinstance(run.candidates, SmallWebConfig):
        candidates = fingerprint({"version": SMALL_WEB_VERSION, **semantic(run.candidates)})
    else:
        candidates = fingerprint(sources.identity(run.candidates))
    return {
        "candidates": candidates,
        "query files": sources_hash(run.queries),
        "split": fingerprint(semantic(run.select.split)),
    }


def preflight(run: RunFile) -> None:
    """Refuse, before anything is started, what would fail later.

    Raises:
        ConfigError: A file is missing or unreadable, or a configured port is in use.
    """
    from pipeline.candidates import sources

    if isinstance(run.candidates, SmallWebConfig):
        from pipeline.demo.server import bind

        bind(run.candidates.execution.port).close()
    else:
        sources.plan(run.candidates)


def _table(work: Work) -> UrlTableConfig | WarcConfig:
    """The candidates as files: the small web's pages are written once, as a web archive."""
    candidates = work.run.candidates
    if not isinstance(candidates, SmallWebConfig):
        return candidates
    from pipeline.demo.web import SmallWeb, write_warc

    uri = storage.join(work.run.output_dir, "web", "pages.warc.gz")
    if not storage.exists(uri):
        with storage.temporary_path(uri) as temporary:
            write_warc(SmallWeb(candidates), temporary)
    return WarcConfig(type="warc", path=uri)


@contextlib.contextmanager
def _world(work: Work) -> Iterator[CurateConfig]:
    """The curation's settings, with the small web answering while the block runs."""
    candidates, config = work.run.candidates, work.run.curate
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


def _queries(work: Work) -> StageOutput:
    from pipeline.queries.build import build_queries

    return build_queries(work.run.queries, _table(work), work.uri, work.progress)


def _curate(work: Work) -> StageOutput:
    from pipeline.curation.recipe import curate

    with _world(work) as config:
        return curate(config, _table(work), work.inputs["queries"], work.uri, work.progress)


def _training(name: str) -> Callable[[Work], StageOutput]:
    def run_training(work: Work) -> StageOutput:
        from pipeline.training.launch import train

        return train(
            name,
            _train_config(work.run, name),
            work.inputs,
            work.uri,
            work.progress,
            split=work.run.select.split,
            on_metrics=work.tracked.publish,
            on_grid=work.tracked.log_picture,
        )

    return run_training


def _train_config(run: RunFile, name: str) -> TrainConfig:
    sections = {"clip": run.clip, "prior": run.prior, "decoder": run.decoder}
    return {**sections, **dict(run.upsampler_stages())}[name]


def _embed(work: Work) -> StageOutput:
    from pipeline.shards.embeddings import embed

    inputs = work.inputs
    return embed(work.run.embed, inputs["curate"], inputs["clip"], work.uri, work.progress)


def _select(work: Work) -> StageOutput:
    from pipeline.shards.selection import select

    inputs = work.inputs
    return select(work.run.select, inputs["curate"], inputs["embed"], work.uri, work.progress)


def _generate(work: Work) -> StageOutput:
    from pipeline.generation.batch import generate

    return generate(work.run.generate, work.inputs, _held_out(work.run), work.uri, work.progress)


def _held_out(run: RunFile) -> "list[Prompt]":
    """The small web's held-out prompts; none where the run has no small web."""
    from pipeline.demo.captions import held_out_prompts
    from pipeline.generation.prompts import Prompt

    if not isinstance(run.candidates, SmallWebConfig):
        return []
    found = held_out_prompts(run.generate.num_pictures, run.generate.seed)
    return [Prompt(text, truth._asdict()) for text, truth in found]


def _judge(run: RunFile) -> "TestedJudge | None":
    """The oracle, with the renderings that show how far it can be trusted."""
    from pipeline.demo import known
    from pipeline.demo.shapes import Combination
    from pipeline.evaluation.judges import NONE_LABEL, KnownPicture, TestedJudge

    if not isinstance(run.candidates, SmallWebConfig):
        return None
    side, seed = _final_side(run), run.evaluate.seed
    pictures = []
    for index in range(NUM_KNOWN):
        truth, picture = known.clean(index, side, seed)
        pictures.append(KnownPicture(picture, truth._asdict()))
    nothing = dict.fromkeys(Combination._fields, NONE_LABEL)
    for index in range(NUM_KNOWN // 4):
        pictures.append(KnownPicture(known.damaged(index, side, seed)[1], nothing))
    return TestedJudge(_read_shape, pictures)


def _final_side(run: RunFile) -> int:
    task = (run.upsamplers[-1] if run.upsamplers else run.decoder).task
    assert isinstance(task, DecoderTaskConfig | UpsamplerTaskConfig)
    return task.model.high_px if isinstance(task, UpsamplerTaskConfig) else task.model.image_px


def _read_shape(picture: "Image.Image") -> dict[str, str | None]:
    from pipeline.demo.oracle import read

    return asdict(read(picture))


def _evaluate(work: Work) -> StageOutput:
    from pipeline.evaluation.evaluate import evaluate

    return evaluate(work.run.evaluate, work.inputs, _judge(work.run), work.uri, work.progress)
