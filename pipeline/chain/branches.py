"""Branches: a training that leaves an earlier one at a checkpoint and goes on differently.

A branch is a field of the run file, so that it has an identity, a folder and a record of its own,
and the stages after it stand on it as long as the run file says so.
"""

import json
from collections.abc import Sequence

from pipeline import storage
from pipeline.chain.plan import plan
from pipeline.config import load_run
from pipeline.errors import ConfigError
from pipeline.run_file import RunFile


def overrides(
    run_file: str,
    given: Sequence[str],
    stage: str,
    from_step: int | None,
    skipped: Sequence[str],
) -> list[str]:
    """The branch of a stage as an override of the run file.

    Args:
        run_file: The run file, as the training to leave was run with it.
        given: Overrides of the command line.
        stage: Name of the training stage.
        from_step: Optimiser step whose checkpoint the branch leaves from.
        skipped: ``first:end`` of each range of the order that is left out.

    Raises:
        ConfigError: No step, no such training, or a range that is none.
    """
    if from_step is None:
        raise ConfigError("--skip: a branch needs the step that it leaves from: --from-step N")
    run = load_run(RunFile, run_file, given)
    configs = dict(run.training_stages())
    if stage not in configs:
        raise ConfigError(f"--from-step: {stage} trains nothing in steps in this run file")
    step = next(each for each in plan(run) if each.stage.name == stage)
    if step.identity is None:
        raise ConfigError(
            f"--from-step: what {stage} stands on is not finished in {run.output_dir}, so there is "
            "no training to leave; run it first"
        )
    earlier = configs[stage].branch
    if earlier is not None:
        raise ConfigError(
            f"--from-step: {stage} is a branch already; leave the training that it left "
            f"({earlier.of}), with the ranges of both"
        )
    if step.uri is None or not storage.exists(storage.join(step.uri, "checkpoints")):
        raise ConfigError(
            f"--from-step: {step.uri} holds no checkpoints; run the training first, and give the "
            "settings that it had (others go into the run file, beside the branch)"
        )
    branch = {
        "of": step.identity[:12],
        "from_samples": from_step * configs[stage].global_batch_size,
        "skipped": [_range(text) for text in skipped],
    }
    names = [name for name, _ in run.upsampler_stages()]
    section = f"upsamplers.{names.index(stage)}" if stage in names else stage
    return [f"{section}.branch={json.dumps(branch)}"]


def _range(text: str) -> list[int]:
    first, colon, end = text.partition(":")
    if not (colon and first.isdigit() and end.isdigit()):
        raise ConfigError(f"--skip {text}: expected FIRST:END, two numbers of samples")
    return [int(first), int(end)]
