"""A pilot: the run file's curation on a sample, in a folder of its own, and what it foretells."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import storage
from pipeline.config import raw_values
from pipeline.curation.pilot import Pilot, extrapolate
from pipeline.errors import ConfigError
from pipeline.results import Result
from pipeline.run_file import RunFile

PILOT = "pilot.json"
"""In a pilot's output folder: ``Pilot.as_json``."""
STAGES = ("queries", "balance", "curate")
"""The stages that a pilot runs, as far as the run file has them."""


def overrides(
    run_file: str,
    given: Sequence[str],
    sample: float | None,
    price_per_cpu_hour: float | None,
    price_per_gb: float | None,
) -> list[str]:
    """What a job's pilot options say, as overrides of the run file.

    A pilot has an output folder of its own, ``<output_dir>-sample-<share>``, so that it is never
    taken for the run itself nor the run for it.

    Args:
        run_file: The run file.
        given: Overrides of the command line.
        sample: Share of the pictures; None for the run itself.
        price_per_cpu_hour: Price of a CPU's hour, if given.
        price_per_gb: Price of a stored gigabyte, if given.

    Raises:
        ConfigError: The share is none of a sample, or there is nothing to sample.
    """
    prices = {"per_cpu_hour": price_per_cpu_hour, "per_gb": price_per_gb}
    found = [
        f"execution.prices.{name}={price}" for name, price in prices.items() if price is not None
    ]
    if sample is None:
        return found
    if not 0 < sample < 1:
        raise ConfigError(f"--sample {sample:g}: a pilot uses a share above 0 and below 1")
    values = raw_values(run_file, given)
    if not values.get("candidates"):
        raise ConfigError("--sample: this run file has no candidates to sample; leave it out")
    for name in ("name", "output_dir"):
        if isinstance(value := values.get(name), str):
            text = json.dumps(f"{value.rstrip('/')}-sample-{sample:g}", ensure_ascii=False)
            found.append(f"{name}={text}")
    return [*found, f"candidates.sample={sample!r}"]


def is_pilot(run: RunFile) -> bool:
    """Whether a run uses a sample of its candidates alone."""
    return run.candidates is not None and run.candidates.sample < 1


def publish(run: RunFile, results: Mapping[str, Result]) -> Pilot:
    """Write what a finished pilot foretells; again with other prices where they changed."""
    found = extrapolate(results["balance"], results.get("curate"), run.execution.prices)
    storage.write_json(path(run), found.as_json())
    return found


def path(run: RunFile) -> str:
    """Where a pilot's numbers lie."""
    return storage.join(run.output_dir, PILOT)


def lines(pilot: Pilot) -> list[str]:
    """The pilot for people to read on a terminal."""
    head = (
        f"pilot: {pilot.num_used:,} pairs stand for {pilot.candidates:,} candidates; the whole run "
        "would give (95 % intervals):"
    )
    named = [*pilot.estimates.items(), *((f"– {n}", each) for n, each in pilot.dropped.items())]
    tail = f"  any other reason: at most {pilot.unseen_high95:,.0f} pairs"
    return [head, *(f"  {name.replace('_', ' '):24} {estimate}" for name, estimate in named), tail]


def headline(pilot: Pilot) -> dict[str, Any]:
    """The pilot's numbers in one flat object."""
    values = {name: estimate.value for name, estimate in pilot.estimates.items()}
    return {"sample": pilot.sample, "expected": values}
