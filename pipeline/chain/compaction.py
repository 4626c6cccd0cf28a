"""Compaction of a run: a keep-list of its index → a new folder that other runs can read.

The new folder has the layout of a run with the stages ``curate``, ``embed`` and ``select``; its
index is written last. It opens like any data set, ``jobs.verify`` checks it, a training can mix it
in (``mixture.path``), and its tars can be adopted.
"""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from pipeline import lease, results, storage
from pipeline.chain import given
from pipeline.chain.plan import recorded
from pipeline.config import StrictModel
from pipeline.errors import ConfigError
from pipeline.identity import fingerprint, stage_identity
from pipeline.progress import Progress
from pipeline.results import Result
from pipeline.run_file import RunFile
from pipeline.shards.manifest import SHARDS

STAGES = ("curate", "embed", "select")
RESULT_VERSION = 1


class CompactConfig(StrictModel):
    """What a compacted data set is a result of, beside its inputs."""

    profile: str
    samples_per_shard: int


def preview(
    run: RunFile, profile: str, output: str, samples_per_shard: int | None
) -> dict[str, Any]:
    """What a compaction would write; arguments and errors as of ``compact_run``."""
    known, config = _inputs(run, profile, samples_per_shard)
    places, identity = _places(known, config, storage.absolute(output))
    _check_output(storage.absolute(output), places, identity)
    kept = known["select"].content["profiles"][profile]["kept"]
    num_samples = sum(kept.values())
    return {
        "output": storage.absolute(output),
        "num_samples": num_samples,
        "num_shards": -(-num_samples // config.samples_per_shard),
        "kept": kept,
    }


def compact_run(
    run: RunFile, profile: str, output: str, samples_per_shard: int | None, progress: Progress
) -> dict[str, Any]:
    """Rewrite a run's data set from one of its keep-lists.

    Args:
        run: The run file.
        profile: Name of the keep-list.
        output: A new or unfinished folder.
        samples_per_shard: Samples of a new shard; None: as many as the largest shard has now.
        progress: Where to tell people how far it is.

    Returns:
        Places and counts.

    Raises:
        ConfigError: A stage or the list is missing, the list is older than a removal, or the
            folder holds something else.
        BusyError: A live run holds the new folder.
    """
    known, config = _inputs(run, profile, samples_per_shard)
    output = storage.absolute(output)
    places, identity = _places(known, config, output)
    _check_output(output, places, identity)
    index = storage.join(output, results.INDEX)
    if not storage.exists(index):
        with ExitStack() as stack:
            stack.enter_context(lease.hold(output))
            from pipeline.runtime import ray_session

            stack.enter_context(ray_session(run.execution.ray))
            made = _make(config, known, places, identity, progress)
        _write_index(run, index, config, made, identity)
    content = results.read_result(places["curate"])
    assert content is not None
    return {
        "output": output,
        "data_set": places["curate"],
        "num_samples": content.content["num_samples"],
        "num_shards": len(content.content[SHARDS]),
        "funnel": content.content["funnel"],
    }


def _places(
    known: Mapping[str, Result], config: CompactConfig, output: str
) -> tuple[dict[str, str], str]:
    """Folder of each stage, and what they are a result of."""
    hashes = {name: known[name].manifest_hash for name in STAGES}
    identity = stage_identity("compact", RESULT_VERSION, config, hashes)
    return {name: results.place(output, name, identity) for name in STAGES}, identity


def _inputs(
    run: RunFile, profile: str, samples_per_shard: int | None
) -> tuple[dict[str, Result], CompactConfig]:
    known = recorded(run)
    missing = [name for name in STAGES if name not in known]
    if missing:
        raise ConfigError(
            f"the stage {missing[0]} is not finished in {run.output_dir}; run it first, compaction "
            "follows a keep-list"
        )
    selected = known["select"]
    if profile not in selected.content["profiles"]:
        made = ", ".join(sorted(selected.content["profiles"]))
        raise ConfigError(f"--profile {profile}: {run.output_dir} has keep-lists {made}")
    if _removals_of(run) not in (None, selected.manifest["inputs"].get(given.REMOVALS)):
        raise ConfigError(
            f"{selected.uri} is older than the run's removals; repeat the jobs.select --remove "
            "that was interrupted, or run jobs.run"
        )
    largest = max(int(entry["num_samples"]) for entry in known["curate"].content[SHARDS])
    config = CompactConfig(profile=profile, samples_per_shard=samples_per_shard or largest)
    return known, config


def _removals_of(run: RunFile) -> str | None:
    """Identity of the removals that the keep-lists must know; None where there are none."""
    from pipeline.shards import removals

    return given.removed(run).content_hash if removals.read(run.output_dir) else None


def _check_output(output: str, places: Mapping[str, str], identity: str) -> None:
    index = storage.join(output, results.INDEX)
    if storage.exists(index):
        if storage.read_json(index).get("identity") != identity:
            raise ConfigError(
                f"--output {output} holds another run or another compaction; choose a new folder"
            )
        return
    known = {*STAGES, lease.LEASE, "result.json"}
    foreign = sorted({*storage.list_names(output)} - known)
    started = storage.list_names(storage.join(output, "curate"))
    other = [name for name in started if name != places["curate"].rsplit("/", 1)[-1]]
    if foreign or other:
        raise ConfigError(
            f"--output {output} holds files of something else ({(foreign + other)[0]}); choose a "
            "new folder"
        )


def _make(
    config: CompactConfig,
    known: Mapping[str, Result],
    places: Mapping[str, str],
    identity: str,
    progress: Progress,
) -> dict[str, Result]:
    from pipeline.shards import compact as work
    from pipeline.shards.keep_list import keep_list

    keep = keep_list(known["select"], config.profile)
    keep.verify()
    plan = work.CompactPlan(
        known["curate"],
        known["embed"],
        keep,
        config.samples_per_shard,
        places["curate"],
        places["embed"],
    )
    done = work.compact(plan, progress)
    hashes = {name: known[name].manifest_hash for name in STAGES}
    made: dict[str, Result] = {}

    def publish(stage: str, content: dict[str, Any]) -> None:
        made[stage] = results.publish_result(
            places[stage],
            stage=stage,
            identity=identity,
            config={"compact": config.model_dump(mode="json")},
            inputs={f"compacted {name}": value for name, value in hashes.items()} | _own(made),
            content=content,
            circumstance={"work": done.intervals},
        )

    publish("curate", {**done.curate, "upstream": hashes})
    publish("embed", _embeddings(known["embed"], done.shards, places["embed"]))
    file_name = f"keep/{config.profile}.parquet"
    entry = work.publish_list(storage.join(places["select"], file_name), done)
    publish("select", {"profiles": {config.profile: _list_content(file_name, entry)}})
    storage.remove_folder(plan.folder)
    return made


def _own(made: Mapping[str, Result]) -> dict[str, str]:
    return {name: result.manifest_hash for name, result in made.items()}


def _list_content(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    from pipeline.shards.keep_list import SPLITS

    kept = {s: sum(shard[f"num_kept_{s}"] for shard in entry["shards"]) for s in SPLITS}
    return {"name": name, "kept": kept, "dropped": {}, **entry}


def _embeddings(old: Result, entries: list[dict[str, Any]], uri: str) -> dict[str, Any]:
    """Manifest content, statistics and components as ``embed`` gives them, of what is left."""
    from pipeline.shards import embedding_files as files
    from pipeline.shards import z_statistics

    dim = int(old.content["dim"])
    told = (json.dumps(z_statistics.z_statistics(entries)) + "\n").encode()
    storage.write_bytes(storage.join(uri, files.STATISTICS), told)
    chosen = z_statistics.chosen_shards([int(entry["num_samples"]) for entry in entries])
    rows = (files.read_z_img(storage.join(uri, entries[i]["name"]), dim) for i in chosen)
    components = z_statistics.as_file(z_statistics.principal_components(rows, dim))
    storage.write_bytes(storage.join(uri, files.PCA), components)
    sums = ("sum", "sum_of_squares")
    kept = {n: old.content[n] for n in ("dim", "clip_sha256", "precision") if n in old.content}
    return {
        **kept,
        "num_samples": sum(entry["num_samples"] for entry in entries),
        "num_captions": sum(entry["num_captions"] for entry in entries),
        "shards": [{k: v for k, v in entry.items() if k not in sums} for entry in entries],
        "statistics_sha256": storage.sha256_of(storage.join(uri, files.STATISTICS)),
        "pca_sha256": storage.sha256_of(storage.join(uri, files.PCA)),
    }


def _write_index(
    run: RunFile, uri: str, config: CompactConfig, made: Mapping[str, Result], identity: str
) -> None:
    base = uri.removesuffix(results.INDEX)
    storage.write_json(
        uri,
        {
            "name": f"{run.name}, compacted",
            "identity": identity,
            "config": {"compact": fingerprint(config.model_dump(mode="json"))},
            "stages": {name: result.uri.removeprefix(base) for name, result in made.items()},
            "upsamplers": [],
        },
    )
