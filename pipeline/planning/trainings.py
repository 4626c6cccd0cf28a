"""What each training of a run file takes on a named GPU, or on CPUs where it asks for none."""

from dataclasses import dataclass, replace

from pipeline.errors import ConfigError
from pipeline.gpus import CPU_FLOPS, MFU, USABLE_MEMORY
from pipeline.models.config import ClipConfig, TextTowerConfig, VisionTowerConfig
from pipeline.planning.failures import Advice, Saving, advice
from pipeline.planning.offers import Offer
from pipeline.run_file import RunFile
from pipeline.training.budget import Budget, budget
from pipeline.training.config import (
    ClipTaskConfig,
    DecoderTaskConfig,
    TrainConfig,
    UpsamplerTaskConfig,
)


@dataclass(frozen=True)
class Training:
    """One model's training."""

    stage: str
    config: TrainConfig
    budget: Budget
    workers: int
    is_on_gpu: bool
    device_hours: float
    """Of GPUs, or of CPU cores; without interruptions."""
    wall_s: float
    """Without interruptions, every worker busy."""
    dollars: float
    memory_bytes: int | None
    """Of one GPU; None on CPUs."""
    advice: Advice
    """On interruptions and checkpoints, at this number of workers."""

    @property
    def samples_per_s(self) -> float:
        """Of all workers together."""
        return self.config.samples / self.wall_s

    @property
    def num_steps(self) -> int:
        """Optimiser steps."""
        return -(-self.config.samples // self.config.global_batch_size)

    @property
    def fits(self) -> bool | None:
        """Whether a step leaves room on a GPU; None on CPUs."""
        if self.memory_bytes is None:
            return None
        return self.budget.peak_bytes <= USABLE_MEMORY * self.memory_bytes


def trainings(run: RunFile, offer: Offer, stages: tuple[str, ...] = ()) -> list[Training]:
    """Every training of a run file, or those named.

    Raises:
        ConfigError: The run file trains no such stage, or nothing in steps.
    """
    found = dict(run.training_stages())
    if missing := [name for name in stages if name not in found]:
        trained = ", ".join(found) or "nothing"
        raise ConfigError(f"--stage {missing[0]}: this run file trains {trained} in steps")
    if not found:
        raise ConfigError("this run file trains nothing in steps, so there is nothing to plan")
    clip = clip_of(run)
    return [_training(name, found[name], clip, offer) for name in stages or found]


def clip_of(run: RunFile) -> ClipConfig | None:
    """The CLIP that captions are read through: the run's own, or open_clip's of that name.

    Of an imported CLIP only what its readers state is known; its layers are taken for twelve.
    """
    if run.clip is not None and isinstance(run.clip.task, ClipTaskConfig):
        return run.clip.task.model
    if run.open_clip is not None:
        from pipeline.interop.open_clip import clip_config

        return clip_config(run.open_clip.model)
    for _, config in run.training_stages():
        shape = getattr(config.task.model, "clip", None)
        if shape is not None:
            width = shape.text_width
            return ClipConfig(
                embed_dim=shape.embed_dim,
                vision=VisionTowerConfig(image_px=224, patch_px=14, width=64, layers=1, heads=1),
                text=TextTowerConfig(width=width, layers=12, heads=max(1, width // 64)),
            )
    return None


def _training(stage: str, config: TrainConfig, clip: ClipConfig | None, offer: Offer) -> Training:
    taken = budget(config, clip)
    execution = config.execution
    workers, is_on_gpu = max(1, execution.num_workers), bool(execution.gpus_per_worker)
    operations = taken.training_flops * config.samples
    if is_on_gpu:
        devices, price = workers, offer.price
        rate = _rate(config, offer)
    else:
        devices, price = workers * execution.threads, offer.cpu_price
        rate = CPU_FLOPS
    wall_s = operations / rate / devices
    saving = Saving.of(taken, workers)
    return Training(
        stage=stage,
        config=config,
        budget=taken,
        workers=workers,
        is_on_gpu=is_on_gpu,
        device_hours=wall_s * devices / 3600,
        wall_s=wall_s,
        dollars=wall_s * devices / 3600 * price,
        memory_bytes=offer.gpu.memory_bytes if is_on_gpu else None,
        advice=advice(wall_s, saving, replace(offer.cluster, workers=workers), offer.seed),
    )


def _rate(config: TrainConfig, offer: Offer) -> float:
    """Operations per second of one GPU."""
    peak = offer.gpu.peak_flops(config.precision)
    is_u_net = isinstance(config.task, DecoderTaskConfig | UpsamplerTaskConfig)
    return peak * (offer.mfu or MFU["u_net" if is_u_net else "transformer"])
