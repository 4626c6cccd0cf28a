"""Protocols: what a run's models are worth beside others, measured when somebody asks for it.

A protocol is a stage that no chain runs: it stands on the finished stages that the run's index
names, has a folder by its own identity, and is skipped once it is finished. ``priors`` trains the
run file's ``rival_priors`` first, as further results of the stage ``prior``.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from pipeline import results
from pipeline.chain import drawn_protocols, drawn_settings, given, protocol_work
from pipeline.chain.plan import Step, check_output_dir, recorded
from pipeline.chain.protocol_report import (
    PROTOCOL,
    failed_gates,
    finished_protocols,
    write_protocols,
)
from pipeline.chain.protocol_work import DATA
from pipeline.chain.run import Session, Summary
from pipeline.chain.stages import Stage, Work, stages
from pipeline.errors import ConfigError
from pipeline.evaluation.config import HeldOutCheck
from pipeline.generation.config import Sampling, UpsamplerSampling
from pipeline.identity import stage_identity
from pipeline.memory import PeakMemory
from pipeline.progress import Progress
from pipeline.results import Result, StageOutput
from pipeline.run_file import RunFile

PROTOCOLS = ("priors", "decoder", "upsamplers", "manipulations", *drawn_protocols.WORK)
VERSION = 1


def run_protocols(run: RunFile, names: Sequence[str], progress: Progress) -> dict[str, Any]:
    """Measure, write ``protocols.json`` and ``protocols.html``; what is finished is only read.

    Both also hold what earlier calls have measured on the same stages.

    Args:
        run: The run file.
        names: Of ``PROTOCOLS``.
        progress: Where to tell people how far it is.

    Returns:
        ``protocols`` (folder of each), ``protocols_path``, ``report_path``, ``failed_gates``.

    Raises:
        ConfigError: The folder belongs to another run, or a model is not finished.
        BusyError: A live run holds the output folder.
    """
    known = _known(run)
    with ExitStack() as stack:
        session = _Beside(run, given.removals_and_other_runs(run), progress, Summary(), stack)
        measured = {}
        for name in dict.fromkeys(names):
            stage, inputs = _STAGES[name](run, known, session)
            measured[name] = session.finished(stage, inputs)
        models = {**known, **_priors_by_name(run, known, session)} if "priors" in names else known
    line = write_protocols(run, {**finished_protocols(run.output_dir, known), **measured}, models)
    return {
        **line,
        "protocols": {name: result.uri for name, result in measured.items()},
        "failed_gates": failed_gates(run, measured),
    }


def preview(run: RunFile, names: Sequence[str]) -> dict[str, Any]:
    """What would be measured, and which priors are or would be trained for it; writes nothing."""
    known = _known(run)
    foreign = given.removals_and_other_runs(run)
    rivals = _rivals(run) if "priors" in names else []
    places = [_place(run, stage, known, foreign)[1] for stage in rivals]
    return {
        "protocols": list(names),
        "rival_priors": [
            {"uri": uri, "is_finished": results.read_result(uri) is not None} for uri in places
        ],
    }


def _known(run: RunFile) -> dict[str, Result]:
    """The finished stages that the run's index names, which must hold data and a CLIP."""
    check_output_dir(run)
    known = recorded(run)
    missing = [name for name in DATA if name not in known]
    if missing:
        raise ConfigError(
            f"{run.output_dir} has no finished {', '.join(missing)}; run python -m jobs.run first"
        )
    return known


def _place(
    run: RunFile, stage: Stage, inputs: Mapping[str, Result], foreign: Mapping[str, str]
) -> tuple[str, str]:
    """Identity and folder of a stage on these inputs."""
    hashes = {n: inputs[n].manifest_hash for n in stage.inputs if n in inputs}
    hashes |= {n: foreign[n] for n in stage.inputs if n in foreign}
    identity = stage_identity(stage.name, stage.version, stage.config, hashes)
    return identity, results.place(run.output_dir, stage.name, identity)


class _Beside(Session):
    """Runs stages on what the index names, beside the run: the index stays as it is."""

    def preflight(self) -> None:
        """The sources of the run are not needed, and may be gone."""

    def finished_stages(self) -> Mapping[str, Result]:
        """What the index named before."""
        return recorded(self._run)

    def finished(self, stage: Stage, inputs: Mapping[str, Result]) -> Result:
        """The result of a stage on these inputs, made where it is missing."""
        identity, uri = _place(self._run, stage, inputs, self._foreign)
        result = results.read_result(uri)
        if result is None:
            self.summary = Summary(results=dict(inputs))
            with PeakMemory() as peak:
                result = self.execute(Step(stage, identity, uri, None), peak).result
        assert result is not None
        return result


Planned = tuple[Stage, dict[str, Result]]


def _planned(
    name: str,
    config: HeldOutCheck,
    inputs: dict[str, Result],
    work: Callable[[Any, Work], StageOutput],
) -> Planned:
    profiles = inputs["select"].content["profiles"]
    if config.profile not in profiles:
        raise ConfigError(
            f"protocols.{name}.profile={config.profile}: select made {', '.join(sorted(profiles))}"
        )
    return Stage(f"{PROTOCOL}{name}", VERSION, config, tuple(inputs), work), inputs


def _data(known: Mapping[str, Result]) -> dict[str, Result]:
    return {name: known[name] for name in DATA}


def _priors(run: RunFile, known: Mapping[str, Result], session: _Beside) -> Planned:
    models = _priors_by_name(run, known, session)
    if not models:
        raise ConfigError(
            "--protocol priors: this run has no prior; add the section prior, or rival_priors"
        )
    decoder = {"decoder": known["decoder"]} if "decoder" in known else {}
    inputs = {**_data(known), **decoder, **models}
    return _planned("priors", run.protocols.priors, inputs, protocol_work.compare_priors)


def _priors_by_name(
    run: RunFile, known: Mapping[str, Result], session: _Beside
) -> dict[str, Result]:
    """The run's prior and its rivals by their kinds; the rivals are trained where they are not."""
    found: dict[str, Result] = {}
    own = [known["prior"]] if "prior" in known else []
    trained = [session.finished(stage, _data(known)) for stage in _rivals(run)]
    for result in [*own, *trained]:
        kind = protocol_work.kind_of(result)
        number = sum(name.startswith(kind) for name in found)
        found[f"{kind}_{number + 1}" if number else kind] = result
    return found


def _rivals(run: RunFile) -> list[Stage]:
    """The stage ``prior`` of each rival."""
    runs = [run.model_copy(update={"prior": each}) for each in run.rival_priors]
    return [stage for each in runs for stage in stages(each) if stage.name == "prior"]


def _decoder(run: RunFile, known: Mapping[str, Result], session: _Beside) -> Planned:
    if "decoder" not in known:
        raise ConfigError("--protocol decoder: no decoder is finished; run jobs.run first")
    inputs = {**_data(known), "decoder": known["decoder"]}
    return _planned("decoder", run.protocols.decoder, inputs, protocol_work.check_decoder)


def _upsamplers(run: RunFile, known: Mapping[str, Result], session: _Beside) -> Planned:
    names = [name for name, _ in run.upsampler_stages() if name in known]
    if not names:
        raise ConfigError("--protocol upsamplers: no upsampler is finished; run jobs.run first")
    inputs = {**_data(known), **{name: known[name] for name in names}}
    config = run.protocols.upsamplers
    settings = config.sampling or (run.generate or Sampling()).upsamplers
    more = [UpsamplerSampling()] * (len(names) - len(settings))
    config = config.model_copy(update={"sampling": (*settings[: len(names)], *more)})
    return _planned("upsamplers", config, inputs, protocol_work.compare_upsamplers)


def _manipulations(run: RunFile, known: Mapping[str, Result], session: _Beside) -> Planned:
    if "decoder" not in known:
        raise ConfigError("--protocol manipulations: no decoder is finished; run jobs.run first")
    models = {name: known[name] for name in run.upsampler_names() if name in known}
    inputs = {**_data(known), "decoder": known["decoder"], **models}
    config = run.protocols.manipulations
    sampling = Sampling() if run.generate is None else run.generate.sampling
    config = config.model_copy(update={"sampling": config.sampling or sampling})
    return _planned("manipulations", config, inputs, protocol_work.check_manipulations)


def _drawn(name: str, run: RunFile, known: Mapping[str, Result], session: _Beside) -> Planned:
    inputs = {**_data(known), **drawn_settings.inputs(name, run, known)}
    config = drawn_settings.settled(name, run)
    return _planned(name, config, inputs, drawn_protocols.WORK[name])


_STAGES: dict[str, Callable[[RunFile, Mapping[str, Result], _Beside], Planned]] = {
    "priors": _priors,
    "decoder": _decoder,
    "upsamplers": _upsamplers,
    **{name: partial(_drawn, name) for name in drawn_protocols.WORK},
    "manipulations": _manipulations,
}
