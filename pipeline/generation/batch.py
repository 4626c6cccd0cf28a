"""Many pictures through Ray Data: actors that hold the models write one shard per partition.

Output below the stage's folder:

- ``shards/00000.tar``: ``{key}.png``, ``{key}.txt`` (prompt), ``{key}.json``
- ``shards/00000.parquet``: ``key, kind, index, z_img, z_txt, z_img_of_picture`` (float16, raw)
- ``refused_prompts.parquet``: ``prompt, rule``, where ``safety`` refused any
- ``done/00000.json``: written last; a partition that has it is not made again
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline import storage
from pipeline.errors import CheckpointError, ConfigError
from pipeline.generation.config import GenerateConfig
from pipeline.generation.partition import PartitionMaker, done_uri
from pipeline.generation.plan import Partition, PictureJob, plan
from pipeline.generation.prompts import Prompt, in_turn, resolve
from pipeline.generation.run_stages import RunStages
from pipeline.generation.safety import picture_rules, screened
from pipeline.generation.weights import check_stack
from pipeline.models.config import ClipConfig
from pipeline.placement import models_on
from pipeline.progress import Progress
from pipeline.results import Result, StageOutput
from pipeline.shards.disk_cache import read_verified
from pipeline.shards.embedding_files import STATISTICS
from pipeline.shards.writer import publish_table

CPUS_PER_ACTOR = 1.0
REFUSED = "refused_prompts.parquet"


def generate(
    config: GenerateConfig,
    inputs: Mapping[str, Result],
    held_out: Sequence[Prompt],
    uri: str,
    progress: Progress,
) -> StageOutput:
    """Make the configured pictures and their ablations. Ray must be open.

    Args:
        config: What to make and how.
        inputs: Results by stage name: ``clip, embed, prior, decoder, upsampler_<low>_<high>``;
            without ``embed`` there can be no ablations.
        held_out: Prompts with truth for ``prompts.type=held_out``; else empty.
        uri: Folder for the stage's files.
        progress: Where to tell people how far it is.

    Returns:
        Content: ``shards`` (manifest entries), ``num_pictures`` per kind, ``models``, ``settings``.

    Raises:
        ConfigError: A prompt is refused, or the cluster is too small; nothing was computed.
        CheckpointError: Models and embeddings do not belong together.
    """
    allowed, refused = screened(resolve(config.prompts, held_out), config.safety)
    prompts = in_turn(allowed, config.num_pictures)
    stages = RunStages.of(inputs)
    clip = check_stack(stages).clip
    picture_rules(config.safety, clip.model(ClipConfig), clip.sha256)
    mean_z_img = _mean_z_img(inputs["embed"], inputs["clip"]) if "embed" in inputs else ()
    partitions = plan(
        prompts, config.ablations.num_pictures, config.pictures_per_shard, config.seed
    )
    markers = {p.number: _marker(uri, p.number) for p in partitions}
    waiting = [p for p in partitions if markers[p.number] is None]
    total = sum(len(p.jobs) for p in partitions)
    with progress.stage("generate", total=total, unit="pictures") as bar:
        bar.advance(total - sum(len(p.jobs) for p in waiting))
        sizes = {p.number: len(p.jobs) for p in waiting}
        for number, marker in _run(waiting, stages, config, mean_z_img, uri):
            markers[number] = marker
            bar.advance(sizes[number])
    finished = [marker for marker in markers.values() if marker is not None]
    return _output(finished, config, _recorded(refused, uri))


def _recorded(refused: Sequence[tuple[str, str]], uri: str) -> dict[str, int]:
    """Keep the prompts that were refused; how many by each rule."""
    if refused:
        columns = {
            "prompt": pa.array([prompt for prompt, _ in refused], pa.string()),
            "rule": pa.array([rule for _, rule in refused], pa.string()),
        }
        publish_table(storage.join(uri, REFUSED), pa.table(columns))
    return dict(sorted(Counter(rule for _, rule in refused).items()))


def _run(
    waiting: Sequence[Partition],
    stages: RunStages,
    config: GenerateConfig,
    mean_z_img: tuple[float, ...],
    uri: str,
) -> Iterator[tuple[int, dict[str, Any]]]:
    if not waiting:
        return
    import ray.data

    num_actors = min(config.execution.num_actors, len(waiting))
    _require_room(num_actors, config)
    # Rows are JSON text: Arrow would merge the fields of unlike truths into one struct.
    rows = [
        {"number": p.number, "jobs": json.dumps([job.as_json() for job in p.jobs])} for p in waiting
    ]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        _Actor,  # type: ignore[arg-type]  # Ray declares functions only, and takes classes
        fn_constructor_args=(stages, config, mean_z_img, uri),
        compute=ray.data.ActorPoolStrategy(size=num_actors),
        num_cpus=CPUS_PER_ACTOR,
        num_gpus=config.execution.gpus_per_actor or None,
        label_selector=models_on(),
    )
    for row in dataset.iter_rows():
        yield int(row["number"]), json.loads(row["marker"])


class _Actor:
    """Ray Data actor: one stack, one partition at a time."""

    def __init__(
        self,
        stages: RunStages,
        config: GenerateConfig,
        mean_z_img: tuple[float, ...],
        uri: str,
    ) -> None:
        self._maker = PartitionMaker(stages, config, mean_z_img, uri)
        self._uri = uri

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        number = int(row["number"])
        marker = _marker(self._uri, number)  # a retried task may find its work done
        if marker is None:
            jobs = tuple(PictureJob(**job) for job in json.loads(row["jobs"]))
            marker = self._maker.make(Partition(number, jobs))
        return {"number": number, "marker": json.dumps(marker)}


def _require_room(num_actors: int, config: GenerateConfig) -> None:
    """Actors that hold every CPU would leave none for reading their input: a silent hang."""
    import ray

    resources = ray.cluster_resources()
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    if num_actors * CPUS_PER_ACTOR >= cpus:
        raise ConfigError(
            f"generate.execution.num_actors={num_actors} of {CPUS_PER_ACTOR:g} CPU each must stay "
            f"below the Ray cluster's {cpus:g} CPUs; lower it or add nodes"
        )
    if num_actors * config.execution.gpus_per_actor > gpus:
        raise ConfigError(
            f"generate.execution: num_actors={num_actors} of {config.execution.gpus_per_actor:g} "
            f"GPUs want more than the cluster's {gpus:g}; lower num_actors or gpus_per_actor"
        )


def _mean_z_img(embedded: Result, clip: Result) -> tuple[float, ...]:
    """Mean of raw z_img over the embedded data, after checking that it is of this CLIP."""
    used, given = embedded.content["clip_sha256"], clip.content["weights"]["sha256"]
    if used != given:
        raise CheckpointError(
            f"{embedded.uri} was embedded by CLIP {used[:12]}…, {clip.uri} holds {given[:12]}…; "
            "run embed again with this CLIP"
        )
    uri = storage.join(embedded.uri, STATISTICS)
    statistics = json.loads(read_verified(uri, embedded.content["statistics_sha256"]))
    return tuple(float(value) for value in statistics["mean"])


def _marker(uri: str, number: int) -> dict[str, Any] | None:
    path = done_uri(uri, number)
    return storage.read_json(path) if storage.exists(path) else None


def _output(
    markers: Sequence[Mapping[str, Any]], config: GenerateConfig, refused: Mapping[str, int]
) -> StageOutput:
    kinds: Counter[str] = Counter()
    for marker in markers:
        kinds.update(marker["kinds"])
    content = {
        "shards": [marker["shard"] for marker in markers],
        "num_pictures": dict(sorted(kinds.items())),
        "seed": config.seed,
        "settings": config.sampling.model_dump(mode="json"),
    }
    if config.safety is not None:
        withheld: Counter[str] = Counter()
        for marker in markers:
            withheld.update(marker["withheld"])
        content["safety"] = {
            "refused_prompts": dict(refused),
            "withheld_pictures": dict(sorted(withheld.items())),
        }
    return StageOutput(content, [(m["started_s"], m["ended_s"]) for m in markers])
