"""What is rented and assumed, as a command line states it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import ConfigError
from pipeline.gpus import CPU_HOUR_PRICE, Gpu, named
from pipeline.planning.failures import FAILURES_PER_WORKER_HOUR, Cluster
from pipeline.run_file import RunFile


@dataclass(frozen=True)
class Offer:
    """What is rented, and what is assumed of it."""

    gpu: Gpu
    price: float
    """Of one GPU's hour, dollars."""
    mfu: float | None = None
    """Share of the peak that trainings reach; None takes `gpus.MFU`."""
    cpu_price: float = CPU_HOUR_PRICE
    cluster: Cluster = field(default_factory=Cluster)
    seed: int = 0


def offer(run: RunFile, options: Mapping[str, Any]) -> Offer:
    """An offer from a job's options, defaults where they say nothing.

    Args:
        run: May name the price of a CPU's hour.
        options: ``gpu, gpu_price, mfu, hours_between_failures, restart_s, seed``.

    Raises:
        ConfigError: An unknown GPU, or a number that makes no sense.
    """
    gpu, mfu, hours = named(options["gpu"]), options["mfu"], options["hours_between_failures"]
    if mfu is not None and not 0 < mfu <= 1:
        raise ConfigError(f"--mfu {mfu:g}: a share of the peak is above 0 and at most 1")
    for name in ("gpu_price", "hours_between_failures", "restart_s"):
        value = options[name]
        if value is not None and not value > 0:
            raise ConfigError(f"--{name.replace('_', '-')} {value:g}: must be above 0")
    cpu_price = run.execution.prices.per_cpu_hour
    return Offer(
        gpu=gpu,
        price=gpu.price if options["gpu_price"] is None else options["gpu_price"],
        mfu=mfu,
        cpu_price=CPU_HOUR_PRICE if cpu_price is None else cpu_price,
        cluster=Cluster(
            failures_per_worker_hour=FAILURES_PER_WORKER_HOUR if hours is None else 1 / hours,
            restart_s=options["restart_s"],
        ),
        seed=options["seed"],
    )
