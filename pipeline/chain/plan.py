"""How a run stands in storage: which stages it has, what they are called, which are finished."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline import lease, results, storage
from pipeline.chain import given
from pipeline.chain.stages import Stage, check_stages, stages
from pipeline.config import semantic
from pipeline.errors import ConfigError
from pipeline.identity import stage_identity
from pipeline.results import Result
from pipeline.run_file import RunFile

TUNABLE = ("select.profiles", "select.remove_", "rival_priors", "protocols")
"""What may change in a run's folder: keep-lists are chosen again and again from the same scores,
models are compared with further ones, trainings branch, and every choice has a place of its own."""
BRANCH = ".branch"
"""Ending of what names a training's branch, which may change too."""
STAGES_TO_COME = (
    *("balance", "curate", "clip", "embed", "score", "select"),
    *("prior", "decoder", "upsamplers", "generate", "evaluate"),
)
"""Sections that may change, or be added, until a stage of theirs is finished."""


@dataclass(frozen=True)
class Step:
    """One stage as it stands in storage."""

    stage: Stage
    identity: str | None
    """None where an input is not finished, so that the identity cannot be known yet."""
    uri: str | None
    result: Result | None


def plan(run: RunFile, foreign: Mapping[str, str] | None = None) -> list[Step]:
    """Every stage with its identity as far as known, and its result where finished.

    Args:
        run: The run file.
        foreign: ``given.hashes`` of the run, where they are known: many files take long.
    """
    steps: list[Step] = []
    hashes = dict(given.hashes(run) if foreign is None else foreign)
    for stage in stages(run):
        identity = uri = result = None
        if all(name in hashes for name in stage.inputs):
            inputs = {name: hashes[name] for name in stage.inputs}
            identity = stage_identity(stage.name, stage.version, stage.config, inputs)
            uri = results.place(run.output_dir, stage.name, identity)
            result = results.read_result(uri)
        if result is not None:
            hashes[stage.name] = result.manifest_hash
        steps.append(Step(stage, identity, uri, result))
    return steps


def finished(run: RunFile, name: str) -> Result:
    """The result of one stage.

    Raises:
        ConfigError: It is not finished.
    """
    check_stages(run, [name])
    step = next(step for step in plan(run) if step.stage.name == name)
    if step.result is None:
        raise ConfigError(f"stage {name} is not finished in {run.output_dir}; run it first")
    return step.result


def recorded(run: RunFile) -> dict[str, Result]:
    """The finished stages that the run's index names, whatever became of its inputs since.

    Raises:
        ConfigError: The output folder holds no run.
    """
    places = results.stage_places(run.output_dir)
    found = {name: results.read_result(uri) for name, uri in places.items()}
    return {name: result for name, result in found.items() if result is not None}


def check_output_dir(run: RunFile) -> None:
    """Refuse an output folder that another run file wrote.

    Raises:
        ConfigError: The folder holds another run, or files that no run wrote.
    """
    index_uri = storage.join(run.output_dir, results.INDEX)
    if storage.exists(index_uri):
        index = storage.read_json(index_uri)
        changed = _changed_keys(index["config"], run_config(run))
        changed = [key for key in changed if not _may_change(key, index["stages"])]
        # A folder in which nothing was finished holds nothing that another run could spoil.
        if changed and index["stages"]:
            raise ConfigError(
                f"{run.output_dir} belongs to another run: {', '.join(changed[:8])} differ, and "
                "their stages are finished there; choose another folder with --set output_dir=... "
                "or restore these values"
            )
    elif foreign := sorted(set(storage.list_names(run.output_dir)) - {lease.LEASE, "result.json"}):
        raise ConfigError(
            f"{run.output_dir} holds files that no run wrote ({', '.join(foreign[:3])}); "
            "choose an empty folder with --set output_dir=..."
        )


def _may_change(key: str, finished: Collection[str]) -> bool:
    section = key.split(".")[0]
    is_to_come = section in STAGES_TO_COME and not any(
        stage.startswith(section.removesuffix("s")) for stage in finished
    )
    return is_to_come or key.startswith(TUNABLE) or f"{BRANCH}." in f"{key}."


def run_config(run: RunFile) -> dict[str, Any]:
    """What the index says of the settings: all but names and places."""
    return {k: v for k, v in semantic(run).items() if k not in ("name", "output_dir")}


def _changed_keys(before: Any, now: Any, path: str = "") -> list[str]:  # noqa: ANN401 - JSON
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            changed
            for key in sorted({*before, *now})
            for changed in _changed_keys(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))
        ]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        before, now = dict(enumerate(before)), dict(enumerate(now))
        return _changed_keys(before, now, path)
    return [] if before == now else [path]
