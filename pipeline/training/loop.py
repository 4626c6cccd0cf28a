"""The training loop: plain PyTorch, the same result on any number of workers.

Everything random is a function of (seed, position) or (seed, step, micro-batch), so that
``samples_seen`` is the whole state of the data (contracts 16-19). A step sums the
gradients of its micro-batches, adds them up over the workers in one exchange, and masks the update
on the device where loss or gradient is not finite; what the host needs to know of a step it reads
one step late.
"""

import time

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline import checkpoints, draws, storage
from pipeline.errors import ConfigError, DataError
from pipeline.failpoints import failpoint
from pipeline.models.layers import keep_only_inputs
from pipeline.models.presets import BLOCKS
from pipeline.shards.loader import Loader, prefetch
from pipeline.training.batches import Part, step_parts, weighted
from pipeline.training.checkpointing import Checkpointer
from pipeline.training.device import Late, fixed_arithmetic, seed_torch
from pipeline.training.ema import WeightAverage
from pipeline.training.moments import Moments
from pipeline.training.optim import (
    adamw,
    gradient_norm,
    learning_rate,
    masked_step,
    optimizer_state,
    set_learning_rate,
)
from pipeline.training.sam import at_the_worst_nearby
from pipeline.training.settings import LoopSettings
from pipeline.training.spool import Spool

WEIGHTS = "weights.safetensors"
SUMMARY = "loop.json"
LOG_POINTS = 200
"""About so many points of the loss curve, and at least one every `LOG_EVERY_AT_MOST` steps."""
LOG_EVERY_AT_MOST = 50
PREFETCHED_STEPS = 2


def train_loop(settings: LoopSettings, rank: int = 0, world: int = 1) -> None:
    """Train from the newest complete checkpoint to the end and publish the weights.

    Args:
        settings: The run.
        rank: This worker.
        world: Number of workers; above 1 the default process group is initialised.

    Raises:
        ConfigError: More workers than micro-batches.
        DataError: Gradients stay non-finite; names the samples.
    """
    config = settings.config
    with fixed_arithmetic(config.execution.threads):
        trainer = _Trainer(settings, rank, world)
        trainer.resume()
        trainer.run()
        trainer.finish()


class _Trainer:
    """State of one attempt on one worker."""

    def __init__(self, settings: LoopSettings, rank: int, world: int) -> None:
        config, task = settings.config, settings.task
        self.settings, self.config, self.rank, self.world = settings, config, rank, world
        self.loader = self._open_loader()
        seed_torch(_torch_seed(config.seed, "weights"))
        self.model: nn.Module = task.build().to(settings.device).train()
        if config.execution.activation_checkpointing:
            keep_only_inputs(self.model, BLOCKS)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = adamw(
            self.model, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay
        )
        self.ema = WeightAverage(self.model, config.ema_decay)
        self.step = 0
        self.metric_names: list[str] = []
        self.window = torch.zeros(0, dtype=torch.float64, device=settings.device)
        self.late: tuple[int, Late] | None = None
        self.nonfinite_steps: list[int] = []
        self.moments = Moments(settings, rank, world)
        self.spool = Spool(settings.uri) if rank == 0 else None
        self.log_every = max(1, min(LOG_EVERY_AT_MOST, settings.num_steps // LOG_POINTS))
        self.checkpoint_uri = storage.join(settings.uri, "checkpoints")
        self.checkpointer = Checkpointer(
            self.checkpoint_uri, settings.keep_checkpoints, rank, world
        )
        self.last_checkpoint = self.window_start = time.monotonic()
        self.waited_s = 0.0

    def _open_loader(self) -> Loader:
        config, settings = self.config, self.settings
        micro_batches = config.global_batch_size // config.micro_batch_size
        if self.world > micro_batches:
            raise ConfigError(
                f"execution.num_workers={self.world} is more than the {micro_batches} "
                "micro-batches of a step; lower it or micro_batch_size"
            )
        source = settings.data.source(
            settings.task,
            "train",
            cache_bytes=settings.cache_bytes,
            open_shards=-(-config.num_lanes // self.world),
        )
        lanes = range(config.num_lanes)
        source.keep_open([x for x in lanes if x % micro_batches % self.world == self.rank])
        order = source.order(config.seed, config.num_lanes)
        return Loader(source, order, config.global_batch_size, config.micro_batch_size)

    @property
    def samples_seen(self) -> int:
        return self.step * self.config.global_batch_size

    # -- state ---------------------------------------------------------------------------------

    def _state(self) -> checkpoints.State:
        # The window is padded, so that its shape is known before the first metric is.
        window = torch.zeros(64, dtype=torch.float64)
        window[: len(self.window)] = self.window.cpu()
        bad = torch.tensor([len(self.nonfinite_steps)])
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": optimizer_state(self.model, self.optimizer),
            "ema": self.ema.state(),
            "progress": {"window": window, "nonfinite_steps": bad},
        }

    def resume(self) -> None:
        """Load the newest complete checkpoint, the same on every worker."""
        chosen: list[str | None] = [None]
        if self.rank == 0:
            checkpoints.clean(self.checkpoint_uri)
            chosen = [checkpoints.latest(self.checkpoint_uri)]
        if self.world > 1:
            dist.broadcast_object_list(chosen, src=0)
        if chosen[0] is None:
            return
        state = self._state()
        samples_seen = checkpoints.load(chosen[0], state)
        self.step = samples_seen // self.config.global_batch_size
        self.window = state["progress"]["window"].to(self.settings.device)
        last = int(state["progress"]["nonfinite_steps"][0])
        self.nonfinite_steps = list(range(self.step - last, self.step))

    def checkpoint(self) -> None:
        """Begin a checkpoint of this moment; every worker calls it."""
        self._read_late()
        self.checkpointer.start(self._state(), self.samples_seen, before=self._flush)
        self.last_checkpoint = time.monotonic()

    def _flush(self) -> None:
        """No checkpoint is complete before the metrics up to it lie beside it."""
        if self.spool is not None:
            self.spool.flush()

    # -- steps ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Take every step that is left."""
        settings = self.settings
        parts = step_parts(
            settings.task, self.loader, self.config, self.step, self.rank, self.world
        )
        ahead = prefetch(parts, PREFETCHED_STEPS)
        try:
            while self.step < settings.num_steps:
                waiting = time.monotonic()
                step_parts_now = next(ahead)
                self.waited_s += time.monotonic() - waiting
                wants_checkpoint = self._take_step(step_parts_now)
                self.checkpointer.check()
                failpoint("loop.after_step")
                self._report()
                if wants_checkpoint and self.step < settings.num_steps:
                    self.checkpoint()
        finally:
            ahead.close()
            self.checkpointer.close()

    def _take_step(self, parts: list[Part]) -> bool:
        """One optimiser step; returns whether rank 0 asked for a checkpoint one step before."""
        config = self.config
        totals = torch.zeros(0)
        for part in parts:
            totals = self._backward(part, totals)
        gradients = self._gradients()
        passed = time.monotonic() - self.last_checkpoint
        due = passed >= config.execution.checkpoint_every_s and not self.checkpointer.is_writing
        totals = torch.cat([totals, totals.new_tensor([float(self.rank == 0 and due)])])
        if self.world > 1:
            totals = self._exchange(gradients, totals)
        norm = gradient_norm(gradients)
        bad = (~torch.isfinite(norm + totals[0])).to(torch.float32)
        rate = learning_rate(
            self.samples_seen,
            peak=config.learning_rate,
            samples=config.samples,
            warmup_samples=config.warmup_samples,
            decay=config.decay,
        )
        set_learning_rate(self.optimizer, rate)
        masked_step(self.optimizer, norm, bad, config.grad_clip_norm)
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.step)
        self._count(totals, norm, bad, rate)
        return self._read_late(torch.stack([bad, totals[-1]]))

    def _backward(self, part: Part, totals: Tensor) -> Tensor:
        config, task = self.config, self.settings.task
        batch = {name: value.to(self.settings.device) for name, value in part.batch.items()}
        seed = _torch_seed(config.seed, "dropout", self.step, part.number)
        seed_torch(seed)
        losses, metrics = task.loss(self.model, batch)
        loss = weighted(losses, part).sum() / config.global_batch_size
        if config.sam_rho:
            with at_the_worst_nearby(self.parameters, loss, config.sam_rho):
                seed_torch(seed)
                again = weighted(task.loss(self.model, batch)[0], part)
                (again.sum() / config.global_batch_size).backward()
        else:
            loss.backward()
        self.metric_names = sorted(metrics)
        means = [metrics[name].detach() * part.num_samples for name in self.metric_names]
        row = torch.stack([losses.detach().sum(), *means]).to(torch.float32)
        return row if len(totals) == 0 else totals + row

    def _gradients(self) -> list[Tensor]:
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]

    def _exchange(self, gradients: list[Tensor], totals: Tensor) -> Tensor:
        """Sum gradients and totals over the workers, in one buffer."""
        flat = torch.cat([*(gradient.reshape(-1) for gradient in gradients), totals])
        dist.all_reduce(flat)
        sizes = [gradient.numel() for gradient in gradients]
        *parts, totals = flat.split([*sizes, len(totals)])
        views = [part.view_as(grad) for part, grad in zip(parts, gradients, strict=True)]
        torch._foreach_copy_(gradients, views)  # type: ignore[attr-defined]
        return totals

    def _read_late(self, flags: Tensor | None = None) -> bool:
        """Look at the flags of the step before, and keep those of this one for later."""
        pending, self.late = self.late, None
        if flags is not None:
            self.late = (self.step, Late(flags))
            self.step += 1
        if pending is None:
            return False
        step, late = pending
        bad, wants_checkpoint = late.read()
        self.nonfinite_steps = [*self.nonfinite_steps, step] if bad else []
        if len(self.nonfinite_steps) >= self.settings.max_nonfinite_steps:
            self._stop_on_nonfinite()
        return bool(wants_checkpoint)

    def _stop_on_nonfinite(self) -> None:
        steps = self.nonfinite_steps
        keys = {step: self.loader.keys(step) for step in steps}
        uri = storage.join(self.settings.uri, "nonfinite.json")
        if self.rank == 0:
            storage.write_json(uri, {str(step): names for step, names in keys.items()})
        shown = ", ".join(keys[steps[-1]][:16])
        raise DataError(
            f"loss or gradient was not finite in {len(steps)} steps in a row, the last at "
            f"samples_seen={steps[-1] * self.config.global_batch_size}; no such step was applied. "
            f"Keys of that batch: {shown} (all in {uri}). Lower the learning rate, clip the "
            "gradient, or remove the samples and run again"
        )

    # -- what people see -----------------------------------------------------------------------

    def _count(self, totals: Tensor, norm: Tensor, bad: Tensor, rate: float) -> None:
        """Add a step to the window: [steps, bad steps, rate, norm, loss, metrics…]."""
        good = 1.0 - bad
        values = torch.cat([norm.reshape(1), totals[:-1] / self.config.global_batch_size])
        values = torch.where(bad.bool(), torch.zeros_like(values), values)
        head = torch.stack([good, bad, good.new_tensor(rate)])
        row = torch.cat([head, values]).to(torch.float64)
        if len(self.window) == 0:
            self.window = torch.zeros_like(row)
        self.window[: len(row)] += row

    def _report(self) -> None:
        if self.step % self.log_every == 0 or self.step == self.settings.num_steps:
            if self.spool is not None:
                self.spool.add(self.samples_seen, self._window_means())
            self.window.zero_()
            self.window_start, self.waited_s = time.monotonic(), 0.0
        if self.moments.due(self.step):
            self._look()

    def _look(self) -> dict[str, float]:
        found = self.moments.look(self.model, self.ema, self.samples_seen)
        if self.spool is not None:
            self.spool.add(self.samples_seen, found)
            self.spool.flush()
        return found

    def _window_means(self) -> dict[str, float]:
        good, bad, rate, *sums = self.window.tolist()
        elapsed = max(time.monotonic() - self.window_start, 1e-9)
        names = ["gradient_norm", "loss", *self.metric_names]
        means = {name: total / good for name, total in zip(names, sums, strict=False) if good}
        steps = good + bad
        return means | {
            "learning_rate": rate / steps,
            "nonfinite_steps": bad,
            "samples_per_s": steps * self.config.global_batch_size / elapsed,
            "data_wait_share": self.waited_s / elapsed,
        }

    def finish(self) -> None:
        """Last checkpoint, final numbers, published weights."""
        if checkpoints.latest(self.checkpoint_uri) is None or self.late is not None:
            self.checkpoint()
        final = self._look()
        self.checkpointer.wait()
        if self.rank == 0:
            state = {name: value.cpu() for name, value in self.ema.published(self.model).items()}
            weights = storage.join(self.settings.uri, WEIGHTS)
            checkpoints.export_weights(
                weights, state, self.settings.published_config, self.settings.stage
            )
            summary = {
                "final": final,
                "num_parameters": sum(parameter.numel() for parameter in self.parameters),
                "samples": self.samples_seen,
            }
            storage.write_json(storage.join(self.settings.uri, SUMMARY), summary)
        if self.world > 1:
            dist.barrier()


def _torch_seed(seed: int, purpose: str, *numbers: int) -> int:
    return draws.hash64(seed, purpose, *numbers) >> 1  # torch takes signed 64-bit seeds
