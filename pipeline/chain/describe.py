"""What ``--dry-run`` prints: the resolved run, what is done, where outputs go, what it takes."""

import json
import os
from collections.abc import Sequence

import yaml

from pipeline.chain.plan import Step, check_output_dir, plan
from pipeline.chain.stages import preflight
from pipeline.run_file import RunFile


def describe_run(run: RunFile, only: Sequence[str] | None) -> str:
    """The resolved run file and a line per stage; reads storage, writes nothing.

    Args:
        run: The run file.
        only: Stages that the job would run; None for all.

    Raises:
        ConfigError: The run would be refused.
    """
    check_output_dir(run)
    preflight(run)
    resolved = yaml.safe_dump(json.loads(run.model_dump_json()), sort_keys=False, width=100)
    lines = ["# resolved run file", resolved, "# stages"]
    lines += [_line(step) for step in plan(run) if only is None or step.stage.name in only]
    lines += ["", "# resources", _resources(run), ""]
    return "\n".join(lines)


def _line(step: Step) -> str:
    if step.result is not None:
        return f"{step.stage.name:24} done     {step.uri}"
    waiting = f"(folder known when {', '.join(step.stage.stage_inputs)} are finished)"
    return f"{step.stage.name:24} to do    {step.uri or waiting}"


def _resources(run: RunFile) -> str:
    where = os.environ.get("RAY_ADDRESS", "a private local Ray")
    cpus = run.execution.ray.num_cpus or max(2, os.cpu_count() or 2)
    workers = [
        f"{name} {config.execution.num_workers} × {config.execution.threads} threads, "
        f"{config.samples:,} samples"
        for name, config in run.training_stages()
    ]
    training = ["training:", *(f"  {each}" for each in workers)] if workers else []
    return "\n".join([f"Ray: {where}, {cpus} CPUs", *training])
