"""A run's whole plan: its trainings, their data, and the largest one on more and more GPUs."""

from dataclasses import dataclass
from typing import Any

from pipeline.planning.data import Reading, Stored, reading, stored
from pipeline.planning.failures import Advice, by_size
from pipeline.planning.offers import Offer
from pipeline.planning.trainings import Training, trainings
from pipeline.run_file import RunFile


@dataclass(frozen=True)
class Plan:
    """What a run takes."""

    name: str
    offer: Offer
    trainings: list[Training]
    readings: list[Reading]
    stored: list[Stored]
    longest: Training
    """The training that takes most device hours."""
    sizes: dict[int, Advice]
    """It, by number of devices."""

    def as_json(self) -> dict[str, Any]:
        """The plan's numbers, one object."""
        offer, cluster = self.offer, self.offer.cluster
        return {
            "run": self.name,
            "gpu": offer.gpu.name,
            "gpu_price": offer.price,
            "mfu": offer.mfu,
            "trainings": [_training_json(each) for each in self.trainings],
            "dollars": sum(each.dollars for each in self.trainings),
            "data": [
                {"what": each.what, "bytes": each.num_bytes, "per_picture": each.bytes_per_picture}
                for each in self.stored
            ],
            "reading": [vars(each) for each in self.readings],
            "failures": {
                "per_device_hour": cluster.failures_per_worker_hour,
                "restart_s": cluster.restart_s,
                "stage": self.longest.stage,
                "by_devices": {
                    str(size): {
                        "interval_s": each.interval_s,
                        "goodput": each.goodput,
                        "repeated": each.repeated,
                        "saving": each.saving,
                        "restarting": each.restarting,
                    }
                    for size, each in self.sizes.items()
                },
            },
        }


def make_plan(
    run: RunFile, offer: Offer, stages: tuple[str, ...] = (), num_pictures: int | None = None
) -> Plan:
    """Plan a run file; nothing is taken, written or started.

    Args:
        run: The run file.
        offer: What is rented.
        stages: Trainings to plan; all by default.
        num_pictures: Of the data set, where it is not there yet.

    Raises:
        ConfigError: The run file trains no such stage.
    """
    found = trainings(run, offer, stages)
    longest = max(found, key=lambda each: each.device_hours)
    device_s = longest.wall_s * longest.workers
    files = stored(run, num_pictures)
    counted = next((each.num_pictures for each in files if each.num_pictures), num_pictures)
    return Plan(
        name=run.name,
        offer=offer,
        trainings=found,
        readings=[reading(run, each, files, counted) for each in found],
        stored=files,
        longest=longest,
        sizes=by_size(device_s, longest.budget, offer.cluster, offer.seed),
    )


def _training_json(each: Training) -> dict[str, Any]:
    return {
        "stage": each.stage,
        "parameters": each.budget.parameters,
        "frozen_parameters": each.budget.frozen_parameters,
        "forward_flops_per_sample": each.budget.forward_flops,
        "training_flops_per_sample": each.budget.training_flops,
        "samples": each.config.samples,
        "steps": each.num_steps,
        "workers": each.workers,
        "strategy": each.config.execution.strategy,
        "device": "gpu" if each.is_on_gpu else "cpu",
        "device_hours": each.device_hours,
        "wall_s": each.wall_s,
        "dollars": each.dollars,
        "state_bytes_per_worker": each.budget.state_bytes,
        "peak_bytes_per_worker": each.budget.peak_bytes,
        "fits": each.fits,
        "checkpoint_every_s": each.advice.interval_s,
        "goodput": each.advice.goodput,
        "interruptions": each.advice.num_failures,
    }
