"""The stage `evaluate`: reads generated shards, measures, and keeps what a report shows.

Output below the stage's folder: ``evaluation.json`` (all numbers), ``gallery.parquet`` (the shown
pictures with their nearest training pictures), ``work/*.json`` (one file per finished task).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.evaluation import protocols
from pipeline.evaluation.config import EvaluateConfig
from pipeline.evaluation.gallery import GALLERY, write_gallery
from pipeline.evaluation.generated import FinalEmbeddings, read_embeddings
from pipeline.evaluation.held_out import held_out_embeddings, held_out_keys
from pipeline.evaluation.judges import TestedJudge, judge_confusions
from pipeline.evaluation.metrics import Estimate, normal_mean
from pipeline.evaluation.protocols import Estimates, Read
from pipeline.evaluation.tasks import JudgeShard, NearestInShard, TaskRow, run_tasks
from pipeline.generation.config import UpsamplerSampling
from pipeline.progress import Progress
from pipeline.results import Result, StageOutput
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.embedding_files import EmbeddedDataset
from pipeline.shards.keep_list import KeepList

EVALUATION = "evaluation.json"
UPSAMPLER = "upsampler_"
Done = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class _Data:
    """The results an evaluation reads, opened."""

    curated: CuratedDataset
    embedded: EmbeddedDataset
    keep_list: KeepList
    generated: Result
    made: FinalEmbeddings
    upsamplers: list[Result]
    """Smallest first."""


def evaluate(
    config: EvaluateConfig,
    inputs: Mapping[str, Result],
    judge: TestedJudge | None,
    uri: str,
    progress: Progress,
) -> StageOutput:
    """Measure the generated pictures. Ray must be open.

    Args:
        config: What to measure.
        inputs: Results by stage name: ``curate, embed, select, generate, upsampler_<low>_<high>``.
        judge: Reads pictures; None where nothing can.
        uri: Folder for the stage's files.
        progress: Where to tell people how far it is.

    Returns:
        Content: ``metrics`` by group and name (``value, low95, high95, num``), ``confusions``,
        ``missing`` (what was not measured, and why), ``failed_gates`` (a line per bound that does
        not hold; the caller decides what follows).
    """
    data = _open(config, inputs)
    done: Done = {}
    work = dict(_work(config, data, judge, uri))
    with progress.stage("evaluate", total=len(work), unit="tasks") as bar:
        for name, result in run_tasks(work):
            done[name] = result
            bar.advance(1)
    reads = [
        row for name in sorted(done) if name.startswith("judge") for row in done[name]["readings"]
    ]
    metrics = _metrics(config, data, reads, done)
    flat = {name: found.as_dict() for group in metrics.values() for name, found in group.items()}
    content = {
        "metrics": {
            group: {name: found.as_dict() for name, found in estimates.items()}
            for group, estimates in metrics.items()
        },
        "confusions": _confusions(reads, judge),
        "missing": _missing(config, judge, metrics),
        "failed_gates": protocols.failed_gates(flat, config.gates, config.limits),
        "gallery_sha256": _write_gallery(config, data, reads, done, uri),
    }
    storage.write_json(storage.join(uri, EVALUATION), content)
    return StageOutput(content, [(r["started_s"], r["ended_s"]) for r in done.values()])


def _open(config: EvaluateConfig, inputs: Mapping[str, Result]) -> _Data:
    curated = CuratedDataset(inputs["curate"])
    profiles = inputs["select"].content["profiles"]
    if config.profile not in profiles:
        raise ConfigError(
            f"evaluate.profile={config.profile}: select made {', '.join(sorted(profiles))}"
        )
    entry = profiles[config.profile]
    names = [name for name in inputs if name.startswith(UPSAMPLER)]
    names.sort(key=lambda name: int(name.removeprefix(UPSAMPLER).split("_")[0]))
    return _Data(
        curated=curated,
        embedded=EmbeddedDataset(inputs["embed"], curated),
        keep_list=KeepList(storage.join(inputs["select"].uri, entry["name"]), entry),
        generated=inputs["generate"],
        made=read_embeddings(inputs["generate"]),
        upsamplers=[inputs[name] for name in names],
    )


def _work(
    config: EvaluateConfig, data: _Data, judge: TestedJudge | None, uri: str
) -> Iterator[tuple[str, TaskRow]]:
    """Every task by name; the name is also its file's."""
    tasks: dict[str, Any] = {}
    if judge is not None:
        for number, entry in enumerate(data.generated.content["shards"]):
            tasks[f"judge-{number:05d}"] = JudgeShard(data.generated, entry, judge.read)
    for shard in range(len(data.curated.shards)):
        tasks[f"nearest-{shard:05d}"] = NearestInShard(
            data.embedded, data.keep_list, shard, data.made.z_img_of_picture, config.num_nearest
        )
    tasks |= _upsampling_tasks(config, data)
    for name, task in tasks.items():
        yield name, TaskRow(storage.join(uri, "work", f"{name}.json"), task)


def _upsampling_tasks(config: EvaluateConfig, data: _Data) -> dict[str, Any]:
    if config.upsampling.num_pictures == 0:
        return {}
    from pipeline.evaluation.upsampling_check import UpsampleHeldOut

    chosen = held_out_keys(data.curated, data.keep_list, config.upsampling.num_pictures)
    settings = data.generated.content["settings"]["upsamplers"]
    steps = zip(data.upsamplers, settings, strict=False)
    return {
        f"upsampling-{level}-{place:05d}": UpsampleHeldOut(
            stage_uri=upsampler.uri,
            settings=UpsamplerSampling.model_validate(setting),
            curated=data.curated,
            shard=shard,
            keys=keys,
            seed=config.seed,
            batch_size=config.upsampling.batch_size,
            threads=config.execution.threads,
        )
        for level, (upsampler, setting) in enumerate(steps)
        if level < config.upsampling.num_upsamplers
        for place, (shard, keys) in enumerate(chosen)
    }


def _metrics(
    config: EvaluateConfig, data: _Data, rows: Sequence[dict[str, Any]], done: Done
) -> dict[str, Estimates]:
    reads = [Read.of(row) for row in rows]
    held_out = held_out_embeddings(
        data.curated,
        data.embedded,
        data.keep_list,
        config.retrieval_gallery,
        num_pictures=len(data.made.keys),
    )
    upsampled = [done[name] for name in sorted(done) if name.startswith("upsampling")]
    clip: Estimates = {}
    if len(held_out.gallery_z_img) > 1:
        clip = protocols.retrieval(held_out.gallery_z_img, held_out.gallery_z_txt)
    pictures = protocols.cosines(data.made)
    pictures |= protocols.frechet(data.made.z_img_of_picture, held_out.z_img)
    return {
        "accuracy": protocols.accuracy(reads),
        "shuffled": protocols.shuffled(reads),
        "upsamplers": {
            **protocols.lost_by_upsamplers(reads),
            **protocols.upsampling(upsampled, config.seed),
        },
        "clip": clip,
        "pictures": {**pictures, **_memorised(data.made, _nearest(data.made, done))},
    }


def _nearest(made: FinalEmbeddings, done: Done) -> dict[str, list[tuple[float, int, str]]]:
    """Neighbours per generated picture over all shards, best first."""
    merged: dict[str, list[tuple[float, int, str]]] = {key: [] for key in made.keys}
    for name in sorted(done):
        if name.startswith("nearest"):
            for key, found in zip(made.keys, done[name]["nearest"], strict=True):
                merged[key] += [(float(c), int(shard), str(k)) for c, shard, k in found]
    return {key: sorted(found, key=lambda n: (-n[0], n[2])) for key, found in merged.items()}


def _memorised(
    made: FinalEmbeddings, nearest: Mapping[str, list[tuple[float, int, str]]]
) -> Estimates:
    closest = [nearest[key][0][0] for key in made.keys if nearest[key]]
    if len(closest) < 2:
        return {}
    return {"nearest_training_cosine": normal_mean(np.array(closest))}


def _confusions(
    rows: Sequence[dict[str, Any]], judge: TestedJudge | None
) -> dict[str, dict[str, Any]]:
    """``generated`` and ``judge`` → attribute → matrix."""
    if judge is None:
        return {}
    found = {
        "generated": protocols.confusions([Read.of(row) for row in rows]),
        "judge": judge_confusions(judge.read, judge.known),
    }
    return {name: {a: asdict(c) for a, c in each.items()} for name, each in found.items()}


def _missing(
    config: EvaluateConfig, judge: TestedJudge | None, metrics: Mapping[str, Estimates]
) -> dict[str, str]:
    reasons = {}
    if judge is None:
        reasons["accuracy"] = "Nothing can judge these pictures, so no accuracy is claimed."
    if not metrics["clip"]:
        reasons["clip"] = "Fewer than two held-out captions differ: no retrieval gallery."
    if config.upsampling.num_pictures and not any("psnr" in n for n in metrics["upsamplers"]):
        reasons["upsamplers"] = "Fewer than two held-out pictures: no upsampler was checked."
    return reasons


def _write_gallery(
    config: EvaluateConfig,
    data: _Data,
    rows: Sequence[dict[str, Any]],
    done: Done,
    uri: str,
) -> str:
    nearest = {key: found[: config.num_nearest] for key, found in _nearest(data.made, done).items()}
    readings = {row["key"]: row["reading"] for row in rows}
    target = storage.join(uri, GALLERY)
    return write_gallery(target, data.generated, data.curated, nearest, readings, config.num_shown)


def read_metrics(content: Mapping[str, Any]) -> dict[str, dict[str, Estimate]]:
    """The estimates of an evaluation's content, by group and name."""
    return {
        group: {name: Estimate(**found) for name, found in estimates.items()}
        for group, estimates in content["metrics"].items()
    }
