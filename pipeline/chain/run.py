"""The stages of a run file in order: what is finished is skipped, what is not is run or resumed.

Stateless: the chain may die at any time; it reads storage and goes on. Finished means that the
folder named by a stage's identity holds a manifest (``results.py``); a stage whose inputs changed
has another identity, hence another folder, so nothing is ever overwritten.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from pipeline import lease, results, storage
from pipeline.chain import given, pilot
from pipeline.chain.plan import Step, check_output_dir, plan, run_config
from pipeline.chain.report import REPORT, commit, write_report
from pipeline.chain.stages import Work, preflight, stages
from pipeline.config import semantic
from pipeline.curation.pilot import Pilot
from pipeline.errors import BusyError, ConfigError, PreemptedError
from pipeline.identity import fingerprint
from pipeline.memory import PeakMemory
from pipeline.progress import Progress
from pipeline.results import Result, StageOutput
from pipeline.run_file import RunFile
from pipeline.tracking import StageRun, Tracking, waits

STOPPED = (KeyboardInterrupt, PreemptedError)
"""Somebody ended the run; nothing is wrong with it."""


@dataclass
class Summary:
    """What one call of the chain did."""

    results: dict[str, Result] = field(default_factory=dict)
    work: list[tuple[float, float]] = field(default_factory=list)
    """Unix times (s) between which stage functions worked, in this call."""
    wanted: set[str] = field(default_factory=set)
    """Stages that this call was asked for."""
    ran: list[str] = field(default_factory=list)
    pilot: Pilot | None = None
    """What the whole run would give, where this one is on a sample."""
    wall_s: float = 0.0
    peak_pss_bytes: int = 0

    @property
    def orchestration_s(self) -> float:
        """Wall time of this call in which no partition function or training loop ran."""
        return max(0.0, self.wall_s - union_s(self.work))


def union_s(intervals: Sequence[tuple[float, float]]) -> float:
    """Length of the union of intervals, seconds."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(intervals):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def _pilot_is_done(run: RunFile, wanted: set[str], summary: Summary) -> bool:
    """Whether all is finished that this call wanted of what a pilot runs."""
    stages_of_it = {stage.name for stage in stages(run)} & set(pilot.STAGES) & wanted
    return "balance" in summary.results and stages_of_it <= summary.results.keys()


def _report_is_due(run: RunFile, summary: Summary) -> bool:
    """After any work on pairs or pictures, and where a call died before it wrote the report."""
    if not {"balance", "curate"} & summary.results.keys():
        return False
    return bool(summary.ran) or not storage.exists(storage.join(run.output_dir, REPORT))


def run_chain(run: RunFile, progress: Progress, only: Sequence[str] | None = None) -> Summary:
    """Run what is not finished, in order.

    Args:
        run: The run file.
        progress: Where to tell people how far it is.
        only: Names of the stages to run; their inputs must be finished. All by default.

    Raises:
        ConfigError: The output folder belongs to another run, or an input is not finished.
        BusyError: Another live run holds the output folder.
    """
    started = time.time()
    check_output_dir(run)
    wanted = {stage.name for stage in stages(run)} if only is None else set(only)
    foreign = given.hashes(run)
    summary = Summary(wanted=wanted)
    with ExitStack() as stack:
        peak = stack.enter_context(PeakMemory())
        session = Session(run, foreign, progress, summary, stack)
        for index in range(len(stages(run))):
            step = plan(run, foreign)[index]
            if step.result is None and step.stage.name in wanted:
                step = session.execute(step, peak)
            if step.result is None:
                continue
            if step.stage.name in wanted and step.stage.name not in summary.ran:
                progress.say(f"{step.stage.name}: finished before, {step.uri}")
            summary.results[step.stage.name] = step.result
        if summary.ran:
            session.write_index()  # with the stages after the last that ran
        if pilot.is_pilot(run) and _pilot_is_done(run, wanted, summary):
            summary.pilot = pilot.publish(run, summary.results)
            for line in pilot.lines(summary.pilot):
                progress.say(line)
        if summary.pilot is not None or _report_is_due(run, summary):
            progress.say(f"report: {write_report(run, summary.results, summary.pilot)}")
        peak.mark()
        summary.peak_pss_bytes = peak.peak_bytes
    if not summary.ran and waits(run.output_dir):
        _send_what_waits(run, progress)
    summary.wall_s = time.time() - started
    return summary


def _send_what_waits(run: RunFile, progress: Progress) -> None:
    """Send what an earlier call could not; a call that runs here now does so itself."""
    try:
        with lease.hold(run.output_dir):
            Tracking(run.execution.tracking, run.output_dir, run.name, progress.say).close()
    except BusyError as error:
        progress.say(f"tracking: left to the call that runs here now ({error})")


class Session:
    """What running stages needs, opened when the first unfinished stage is met."""

    def __init__(
        self,
        run: RunFile,
        foreign: Mapping[str, str],
        progress: Progress,
        summary: Summary,
        stack: ExitStack,
    ) -> None:
        """Open nothing yet.

        Args:
            run: The run file.
            foreign: What it starts from, by name.
            progress: Where to tell people how far it is.
            summary: What this call did; its results are what stages stand on.
            stack: Closes what is opened.
        """
        self._foreign, self.summary = foreign, summary
        self._run, self._progress, self._stack = run, progress, stack
        self._tracking: Tracking | None = None

    def execute(self, step: Step, peak: PeakMemory) -> Step:
        """Run one stage on the summary's results, and publish what it gives."""
        summary = self.summary
        if step.identity is None or step.uri is None:
            missing = [name for name in step.stage.stage_inputs if name not in summary.results]
            raise ConfigError(
                f"stage {step.stage.name} needs {', '.join(missing)}, not finished in "
                f"{self._run.output_dir}; run python -m jobs.run, or the missing stages first"
            )
        if self._tracking is None:
            self._tracking = self._open()
        inputs = {n: summary.results[n] for n in step.stage.inputs if n in summary.results}
        self._progress.say(f"{step.stage.name}: {step.uri}")
        storage.remove_temporary(step.uri)
        peak.mark()
        started, cpu_s = time.time(), time.process_time()
        with self._stage_run(step, inputs) as stage_run:
            work = Work(step.uri, inputs, self._run, self._progress, stage_run)
            output = step.stage.run(step.stage.config, work)
            storage.remove_temporary(step.uri)  # of workers that were killed and replaced
            measured = {
                "started_s": started,
                # Of this process alone: Ray's workers are not in it, a training without any is.
                "cpu_s": time.process_time() - cpu_s,
                "peak_pss_bytes": peak.mark(),
            }
            result = self._publish(step, inputs, output, measured)
            stage_run.finish("FINISHED", numbers(output.content), _artifacts(result))
        summary.work += [interval for interval in output.work if interval[0] >= started]
        summary.ran.append(step.stage.name)
        summary.results[step.stage.name] = result
        self._progress.say(f"{step.stage.name}: done in {time.time() - started:.0f} s")
        self.write_index()
        return Step(step.stage, step.identity, step.uri, result)

    def preflight(self) -> None:
        """Refuse what would fail later, before anything is started."""
        preflight(self._run)

    def finished_stages(self) -> Mapping[str, Result]:
        """What the index shall name."""
        steps = plan(self._run, self._foreign)
        return {step.stage.name: step.result for step in steps if step.result is not None}

    def _open(self) -> Tracking:
        from pipeline.runtime import ray_session

        self.preflight()
        self._stack.enter_context(lease.hold(self._run.output_dir))
        self.write_index()
        self._stack.enter_context(ray_session(self._run.execution.ray))
        config = self._run.execution.tracking
        _refuse_sqlite_on_several_nodes(config.uri)
        tracking = Tracking(config, self._run.output_dir, self._run.name, self._progress.say)
        tracking.start()
        self._stack.push(self._close_tracking)
        return tracking

    def _close_tracking(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._tracking is not None
        status = "FINISHED" if kind is None else "FAILED"
        if kind is not None and issubclass(kind, STOPPED):
            status = "KILLED"
        final = self.summary.results.get("evaluate")
        artifacts = _there([storage.join(self._run.output_dir, REPORT)])
        self._tracking.finish(status, numbers(final.content) if final else {}, artifacts)

    @contextmanager
    def _stage_run(self, step: Step, inputs: dict[str, Result]) -> Iterator[StageRun]:
        assert self._tracking is not None
        assert step.identity is not None
        tags = {f"input.{name}": result.manifest_hash for name, result in inputs.items()}
        upstream = {name: result.manifest["identity"] for name, result in inputs.items()}
        tags["commit"] = commit()
        run = self._tracking.stage(step.stage.name, step.identity, tags, upstream)
        run.log_config(semantic(step.stage.config))
        try:
            yield run
        except BaseException as error:
            run.finish("KILLED" if isinstance(error, STOPPED) else "FAILED", {}, [])
            raise

    def _publish(
        self,
        step: Step,
        inputs: dict[str, Result],
        output: StageOutput,
        measured: Mapping[str, float],
    ) -> Result:
        assert step.uri is not None
        assert step.identity is not None
        hashes = {name: result.manifest_hash for name, result in inputs.items()}
        hashes |= {n: self._foreign[n] for n in step.stage.inputs if n in self._foreign}
        return results.publish_result(
            step.uri,
            stage=step.stage.name,
            identity=step.identity,
            config=semantic(step.stage.config),
            inputs=hashes,
            content=output.content,
            circumstance={
                **measured,
                "ended_s": time.time(),
                "work_s": union_s(output.work),
                "commit": commit(),
            },
        )

    def write_index(self) -> None:
        """``run.json``: whose folder this is, and where each finished stage's result lies."""
        finished = self.finished_stages()
        base = self._run.output_dir.rstrip("/") + "/"
        config = run_config(self._run)
        places = {name: result.uri.removeprefix(base) for name, result in finished.items()}
        upsamplers = [name for name in self._run.upsampler_names() if name in places]
        index = {
            "name": self._run.name,
            "identity": fingerprint(config),
            "config": config,
            "stages": places,
            "upsamplers": upsamplers,
        }
        storage.write_json(storage.join(self._run.output_dir, results.INDEX), index)


def numbers(content: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The plain numbers of a manifest's content, by dotted name: a stage's headline metrics."""
    found: dict[str, float] = {}
    for name, value in content.items():
        if isinstance(value, bool | str) or value is None:
            continue
        if isinstance(value, int | float):
            found[prefix + name] = float(value)
        elif isinstance(value, dict) and len(value) <= 40:
            found |= numbers(value, f"{prefix}{name}.")
    return found


def _artifacts(result: Result) -> list[str]:
    """Files small or important enough to be kept with the MLflow run."""
    names = ["manifest.json", "weights.safetensors", "evaluation.json"]
    return _there([storage.join(result.uri, name) for name in names])


def _there(uris: Sequence[str]) -> list[str]:
    return [uri for uri in uris if storage.exists(uri)]


def _refuse_sqlite_on_several_nodes(uri: str) -> None:
    import ray

    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    if uri.startswith("sqlite") and nodes > 1:
        raise ConfigError(
            f"execution.tracking.uri={uri} on a cluster of {nodes} nodes; name an MLflow server"
        )
