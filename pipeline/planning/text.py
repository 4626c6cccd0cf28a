"""A plan as tables of text, for a terminal."""

from collections.abc import Iterable, Sequence

from pipeline.evaluation.svg import Number
from pipeline.gpus import MFU
from pipeline.planning.data import Reading, Stored
from pipeline.planning.failures import FAILURES_PER_WORKER_HOUR
from pipeline.planning.plan import Plan
from pipeline.planning.trainings import Training

TRAINING_HEADING = (
    "stage", "parameters", "forward", "training", "samples", "workers", "peak per worker",
    "hours", "dollars", "lasts", "checkpoint every", "goodput",
)  # fmt: skip
DATA_HEADING = ("files", "per picture", "all")
READING_HEADING = ("stage", "bandwidth", "cores", "passes")
SIZE_HEADING = (
    "devices", "lasts", "interruptions", "checkpoint every", "by formula", "goodput", "lost work",
    "checkpoints", "starting again",
)  # fmt: skip


def lines(plan: Plan) -> Iterable[str]:
    """The whole plan."""
    yield from table(TRAINING_HEADING, [training_row(each) for each in plan.trainings])
    yield ""
    yield from table(DATA_HEADING, [stored_row(each) for each in plan.stored])
    yield ""
    yield from table(READING_HEADING, [reading_row(each) for each in plan.readings])
    yield ""
    yield f"{plan.longest.stage} on more devices, each as fast as alone:"
    yield from table(SIZE_HEADING, size_rows(plan))
    yield ""
    yield from notes(plan)


def notes(plan: Plan) -> list[str]:
    """What the numbers stand on."""
    offer, cluster = plan.offer, plan.offer.cluster
    rate = cluster.failures_per_worker_hour
    source = ""
    if rate == FAILURES_PER_WORKER_HOUR:
        source = " (Llama 3: 419 in 54 days on 16,384 H100)"
    share = f"{MFU['transformer']:.0%} (transformers) and {MFU['u_net']:.0%} (U-Nets)"
    if offer.mfu is not None:
        share = f"{offer.mfu:.0%}"
    found = [
        f"{offer.gpu.name} at {offer.price:.2f} $ per hour, {share} of its peak; forward and "
        "training are operations per sample. None of it was measured on a GPU.",
        f"An interruption per {1 / rate:,.0f} device hours{source}, {cluster.restart_s:.0f} s to "
        "start again. Hours and dollars are without them: divide by goodput.",
    ]
    found += [
        f"{each.stage}: {short_bytes(each.budget.peak_bytes)} do not fit a {offer.gpu.name}; lower "
        "micro_batch_size, or set execution.strategy or activation_checkpointing"
        for each in plan.trainings
        if each.fits is False
    ]
    return found


def training_row(each: Training) -> list[str]:
    """One training."""
    unit = "GPU" if each.is_on_gpu else "core"
    return [
        each.stage,
        short(each.budget.parameters),
        f"{each.budget.forward_flops / 1e9:,.4g} G",
        f"{each.budget.training_flops / 1e9:,.4g} G",
        short(each.config.samples),
        f"{each.workers} {each.config.execution.strategy}",
        short_bytes(each.budget.peak_bytes),
        f"{each.device_hours:,.3g} {unit}-h" if each.device_hours < 100 else (
            f"{each.device_hours:,.0f} {unit}-h"
        ),
        f"{each.dollars:.2g}" if each.dollars < 100 else f"{each.dollars:,.0f}",
        duration(each.wall_s),
        duration(each.advice.interval_s),
        f"{each.advice.goodput:.2%}",
    ]  # fmt: skip


def stored_row(each: Stored) -> list[str]:
    """One kind of files."""
    per_million = short_bytes(each.bytes_per_picture * 1e6) + " per million pictures"
    whole = per_million if each.num_bytes is None else (
        f"{short_bytes(each.num_bytes)}{'' if each.is_counted else ' by rule'}"
    )  # fmt: skip
    return [each.what, short_bytes(each.bytes_per_picture), whole]


def reading_row(each: Reading) -> list[str]:
    """What one training reads."""
    passes = "unknown" if each.passes is None else f"{each.passes:.3g}"
    return [each.stage, f"{short_bytes(each.bytes_per_s)}/s", f"{each.cores:.3g}", passes]


def size_rows(plan: Plan) -> list[list[str]]:
    """The longest training by number of devices."""
    device_s = plan.longest.wall_s * plan.longest.workers
    return [
        [
            f"{size:,}",
            duration(device_s / size / each.goodput),
            f"{each.num_failures:.2g}",
            duration(each.interval_s),
            duration(each.formula_s),
            *(f"{x:.2%}" for x in (each.goodput, each.repeated, each.saving, each.restarting)),
        ]
        for size, each in plan.sizes.items()
    ]


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as they need, the first to the left."""
    widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (heading, *rows)
    ]


def short(number: Number) -> str:
    """A count in thousands, millions or billions."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}"
    return f"{number:.3g}"


def short_bytes(number: Number) -> str:
    """Bytes in powers of ten."""
    for limit, unit in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}"
    return f"{number:.3g} B"


def duration(seconds: Number) -> str:
    """Seconds, minutes, hours or days, to three places."""
    for limit, unit in ((2 * 86_400, "d"), (2 * 3600, "h"), (2 * 60, "min")):
        if seconds >= limit:
            return f"{seconds / (limit / 2):.3g} {unit}"
    return f"{seconds:.3g} s"
