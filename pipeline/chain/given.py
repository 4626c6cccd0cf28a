"""What enters a run that no stage of it made: files, removals, other runs' data sets.

Each has a name, by which stages list it among their inputs, and a hash, which is its identity.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline import storage
from pipeline.config import semantic
from pipeline.demo.config import SmallWebConfig
from pipeline.errors import ConfigError
from pipeline.generation.config import FilePrompts, GenerateConfig
from pipeline.identity import files_identity, fingerprint
from pipeline.images.config import FilterConfig
from pipeline.models.config import OpenClipConfig
from pipeline.results import read_result
from pipeline.run_file import RunFile
from pipeline.training.config import TrainConfig
from pipeline.training.starting import weights_of

if TYPE_CHECKING:
    from pipeline.shards.removals import Removals

EARLIER_CRAWLS, BLOCK_LISTS = "earlier crawls", "block lists"
HEADS, EVALUATION_SETS = "heads", "evaluation sets"
PROMPTS, SAFETY_HEADS = "prompts", "safety heads"
FOREIGN = (
    "candidates", "query files", EARLIER_CRAWLS, BLOCK_LISTS, "shards", "weights", "split",
    HEADS, EVALUATION_SETS, PROMPTS, SAFETY_HEADS,
)  # fmt: skip
"""Inputs of a fixed name that are no stages."""
SMALL_WEB_VERSION = 1
"""Raised when the small web's pages or pictures change."""
REMOVALS = "removals"
MIXTURE_OF, START_OF, IMPORTED = "mixture of ", "start of ", "imported "


def is_given(name: str) -> bool:
    """Whether an input's name is one of these, not a stage's."""
    return name in FOREIGN or name == REMOVALS or name.startswith((MIXTURE_OF, START_OF, IMPORTED))


def hashes(run: RunFile) -> dict[str, str]:
    """Identity of what the run starts from, by name, beside each stage's own section.

    ``candidates`` (files, or the small web), ``query files``, ``earlier crawls`` (their
    manifests), ``block lists`` (their content), ``shards`` and ``weights`` (somebody else's),
    ``heads``, ``evaluation sets`` and ``safety heads`` (files), ``prompts`` (a file of them),
    ``imported <model>``
    (somebody else's files), ``split``: the part of ``select`` that CLIP's training, which comes
    before it, must already obey; ``removals``, what mixtures read in other runs, and the weights
    that trainings begin with. What a run does not have does not enter, so that no identity changes
    by it.
    """
    from pipeline.candidates import sources
    from pipeline.queries.build import sources_hash

    hashes = {**removals_and_other_runs(run), **_imported_hashes(run)}
    if run.queries is not None:
        hashes["query files"] = sources_hash(run.queries)
    if run.adopt is not None:
        from pipeline.shards import adopt

        hashes["shards"] = fingerprint(adopt.identity(run.adopt))
    if run.open_clip is not None:
        hashes["weights"] = _weights_hash(run.open_clip)
    if isinstance(run.candidates, SmallWebConfig):
        hashes["candidates"] = small_web_hash(run.candidates)
    elif run.candidates is not None:
        hashes["candidates"] = fingerprint(sources.identity(run.candidates))
    if run.curate is not None and run.curate.crawl.earlier_crawls:
        hashes[EARLIER_CRAWLS] = fingerprint(_manifest_hashes(run.curate.crawl.earlier_crawls))
    if filters(run).block_lists:
        from pipeline.images.block_list import content_hash

        hashes[BLOCK_LISTS] = content_hash(filters(run))
    hashes |= _scoring_hashes(run)
    if run.select is not None:
        hashes["split"] = fingerprint(semantic(run.select.split))
    return hashes if run.generate is None else hashes | of_generation(run.generate)


def of_generation(config: GenerateConfig) -> dict[str, str]:
    """Of a file of prompts and of the heads that judge pictures."""
    hashes: dict[str, str] = {}
    if isinstance(config.prompts, FilePrompts):
        from pipeline.generation.prompts import read_prompts

        hashes[PROMPTS] = fingerprint([prompt.text for prompt in read_prompts(config.prompts)])
    if config.safety is not None and config.safety.heads:
        from pipeline.selection.heads import files_hash

        hashes[SAFETY_HEADS] = files_hash(config.safety.heads)
    return hashes


def filters(run: RunFile) -> FilterConfig:
    """Which pictures a run takes, crawled or adopted."""
    section = run.adopt if run.curate is None else run.curate
    return (section and section.filters) or FilterConfig(min_side_px=1)


def _scoring_hashes(run: RunFile) -> dict[str, str]:
    """Of heads and evaluation pictures; importing what reads them is left to those who have any."""
    hashes: dict[str, str] = {}
    if run.score is not None and run.score.heads:
        from pipeline.selection.heads import files_hash

        hashes[HEADS] = files_hash(run.score.heads)
    if run.score is not None and run.score.evaluation_sets:
        from pipeline.selection.evaluation_sets import sets_hash

        hashes[EVALUATION_SETS] = sets_hash(run.score.evaluation_sets)
    return hashes


def _manifest_hashes(uris: Sequence[str]) -> list[str]:
    hashes = []
    for uri in uris:
        result = read_result(uri)
        if result is None:
            raise ConfigError(
                f"curate.crawl.earlier_crawls: {uri} holds no finished stage; name the folder of a "
                "finished curate stage"
            )
        hashes.append(result.manifest_hash)
    return hashes


def small_web_hash(config: SmallWebConfig) -> str:
    """Identity of a small web: its settings make its pages and pictures."""
    return fingerprint({"version": SMALL_WEB_VERSION, **semantic(config)})


def _weights_hash(config: OpenClipConfig) -> str:
    if not storage.exists(config.weights_path):
        raise ConfigError(
            f"open_clip.weights_path={config.weights_path!r}: no such file; download the weights "
            "of this model and name the file"
        )
    return storage.sha256_of(config.weights_path)


def _imported_hashes(run: RunFile) -> dict[str, str]:
    from pipeline.interop.places import files

    if run.imported is None:
        return {}
    return {
        IMPORTED + model: fingerprint(files_identity([str(p) for p in files(run.imported, model)]))
        for model in run.imported.models
    }


def removed(run: RunFile) -> "Removals":
    """What no keep-list made from now on may hold: the run's ledger, and what its file names."""
    from pipeline.shards import removals
    from pipeline.shards.removals import Entry, Removals

    ledger = removals.read(run.output_dir)
    if run.select is None:
        return ledger
    keys = [Entry("key", key) for key in run.select.remove_keys]
    addresses = [Entry("url", url) for url in run.select.remove_urls]
    return Removals([*ledger.entries, *keys, *addresses])


def removals_and_other_runs(run: RunFile) -> dict[str, str]:
    """The part of ``hashes`` that is no file of the run's own."""
    found = {}
    taken_down = removed(run)
    if taken_down:
        found[REMOVALS] = taken_down.content_hash
    for name, config in run.training_stages():
        if any(source.path is not None for source in config.mixture):
            found[MIXTURE_OF + name] = _mixture_hash(config)
        if config.warm_start is not None:
            found[START_OF + name] = weights_of(config.warm_start, name)[1]
    return found


def inputs_of(run: RunFile, stage: str, config: object) -> tuple[str, ...]:
    """Names of these inputs that a stage has beside its others.

    Args:
        run: The run file.
        stage: Name of the stage.
        config: Its section.
    """
    from pipeline.shards import removals

    found: tuple[str, ...] = ()
    if isinstance(config, GenerateConfig):
        has_heads = config.safety is not None and config.safety.heads
        found += (PROMPTS,) if isinstance(config.prompts, FilePrompts) else ()
        found += (SAFETY_HEADS,) if has_heads else ()
    is_first_list = stage == "clip" and isinstance(config, TrainConfig)
    if (is_first_list and removed(run)) or (stage == "select" and removals.read(run.output_dir)):
        found += (REMOVALS,)
    if isinstance(config, TrainConfig) and any(s.path is not None for s in config.mixture):
        found += (MIXTURE_OF + stage,)
    if isinstance(config, TrainConfig) and config.warm_start is not None:
        found += (START_OF + stage,)
    return found


def _mixture_hash(config: TrainConfig) -> str:
    """Of what is read in other runs; the sections state weights and profiles."""
    from pipeline.training import reading

    others = {
        str(number): reading.hashes_of(reading.other_run(source), source.profile)
        for number, source in enumerate(config.mixture)
        if source.path is not None
    }
    return fingerprint(others)
