"""The training loop: plain PyTorch, the same result on any number of workers.

Everything random is a function of (seed, position) or (seed, step, micro-batch), so that
``samples_seen`` is the whole state of the data (contracts 16-19). A step sums the
gradients of its micro-batches, adds them up over the workers in one exchange, and masks the update
on the device where loss or gradient is not finite; what the host needs to know of a step it reads
one step late.
"""

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline import checkpoints, draws, storage, weights_file
from pipeline.errors import ConfigError, DataError, PreemptedError
from pipeline.failpoints import failpoint
from pipeline.shards.loader import Loader, prefetch
from pipeline.training.batches import Part, weighted
from pipeline.training.checkpointing import Checkpointer
from pipeline.training.decoder_child import open_loader
from pipeline.training.device import Late, Stopwatch, fixed_arithmetic, on_device, seed_torch
from pipeline.training.ema import WeightAverage
from pipeline.training.feeding import fed_parts
from pipeline.training.moments import Moments
from pipeline.training.node import metered
from pipeline.training.notices import Notices
from pipeline.training.optim import (
    adamw,
    learning_rate,
    masked_step,
    optimizer_state,
    set_learning_rate,
)
from pipeline.training.parallel import lay_out
from pipeline.training.reporting import Report
from pipeline.training.sam import at_the_worst_nearby
from pipeline.training.settings import LoopSettings
from pipeline.training.warm_start import prepared

WEIGHTS = "weights.safetensors"
SUMMARY = "loop.json"
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
        StorageError: A checkpoint could not be written.
        PreemptedError: The driver asked to stop; a checkpoint is written.
    """
    config = settings.config
    with fixed_arithmetic(config.execution.threads, settings.device, config.precision):
        trainer = _Trainer(settings, rank, world)
        try:
            with trainer.metered():
                trainer.resume()
                trainer.run()
                trainer.finish()
        finally:
            trainer.checkpointer.close()


@dataclass(frozen=True)
class Wishes:
    """What the first worker asks of all."""

    checkpoint: bool = False
    stop: bool = False


class _Trainer:
    """State of one attempt on one worker."""

    def __init__(self, settings: LoopSettings, rank: int, world: int) -> None:
        config, task = settings.config, settings.task
        self.settings, self.config, self.rank, self.world = settings, config, rank, world
        self.loader = self._open_loader()
        seed_torch(_torch_seed(config.seed, "weights"))
        network = prepared(task.build(), config, settings.start_uri)
        self.layout = lay_out(network.train(), config, settings.device, rank, world)
        self.model = self.layout.model
        self.optimizer = adamw(
            self.model,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            factors=config.learning_rate_factors,
        )
        start = -(-config.ema_start_samples // config.global_batch_size)
        self.ema = WeightAverage(self.model, config.ema_decay, start)
        self.step = 0
        self.late: tuple[int, Late] | None = None
        self.nonfinite_steps: list[int] = []
        self.moments = Moments(settings, self.layout, rank, world)
        self.report = Report(settings, rank)
        self.node = self.report.introduce(world)
        self.notices = Notices(settings.uri)
        self.own_time, self.waited_s = Stopwatch(settings.device), 0.0
        self.checkpoint_uri = storage.join(settings.uri, "checkpoints")
        self.checkpointer = Checkpointer(
            self.checkpoint_uri, config.execution.keep_checkpoints, rank, world
        )
        self.last_checkpoint = time.monotonic()

    def metered(self) -> AbstractContextManager[None]:
        """What the node does meanwhile is kept, by the first of its workers."""
        if self.node is None:
            return nullcontext()
        return metered(self.settings.uri, self.node, lambda: self.samples_seen)

    def _open_loader(self) -> Loader:
        config, settings = self.config, self.settings
        micro_batches = config.global_batch_size // config.micro_batch_size
        if self.world > micro_batches:
            raise ConfigError(
                f"execution.num_workers={self.world} is more than the {micro_batches} "
                "micro-batches of a step; lower it or micro_batch_size"
            )
        return open_loader(settings)

    @property
    def samples_seen(self) -> int:
        return self.step * self.config.global_batch_size

    # -- state ---------------------------------------------------------------------------------

    def _state(self) -> checkpoints.State:
        bad = torch.tensor([len(self.nonfinite_steps)])
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": self.layout.as_saved(optimizer_state(self.model, self.optimizer)),
            "ema": self.layout.as_saved(self.ema.state()),
            "progress": {"window": self.report.state(), "nonfinite_steps": bad},
        }

    def resume(self) -> None:
        """Load the newest complete checkpoint, or the one of a branch; the same on every worker."""
        chosen: list[str | None] = [None]
        if self.rank == 0:
            checkpoints.clean(self.checkpoint_uri)
            chosen = [checkpoints.latest(self.checkpoint_uri) or self.settings.branch_uri]
        if self.world > 1:
            dist.broadcast_object_list(chosen, src=0)
        if chosen[0] is None:
            return
        state = self._state()
        samples_seen = checkpoints.load(chosen[0], state)
        self.step = samples_seen // self.config.global_batch_size
        self.ema.resume(self.step)
        self.report.resume(state["progress"]["window"])
        last = int(state["progress"]["nonfinite_steps"][0])
        self.nonfinite_steps = list(range(self.step - last, self.step))

    def checkpoint(self) -> None:
        """Begin a checkpoint of this moment; every worker calls it.

        It is complete only after the metrics, and the weights to look at, up to it lie beside it.
        """
        self._read_late()
        self.checkpointer.start(self._state(), self.samples_seen, before=self._leave_all)
        self.last_checkpoint = time.monotonic()

    def _leave_all(self) -> None:
        self.moments.wait()
        self.report.flush()

    # -- steps ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Take every step that is left."""
        settings = self.settings
        parts = fed_parts(settings, self.loader, self.step, self.rank, self.world)
        ahead = prefetch(parts, PREFETCHED_STEPS)
        try:
            while self.step < settings.num_steps:
                waiting = time.monotonic()
                step_parts_now = next(ahead)
                self.waited_s = time.monotonic() - waiting
                self.report.waited(self.waited_s)
                wishes = self._take_step(step_parts_now)
                self.checkpointer.check()
                failpoint("loop.after_step")
                self.report.after(self.step)
                if self.moments.due(self.step):
                    self._look()
                if (wishes.checkpoint or wishes.stop) and self.step < settings.num_steps:
                    self.checkpoint()
                    if wishes.stop:
                        self._stop_as_asked()
        finally:
            ahead.close()
            parts.close()

    def _take_step(self, parts: list[Part]) -> Wishes:
        """One optimiser step; returns what rank 0 wished for one step before."""
        config, layout = self.config, self.layout
        totals = torch.zeros(0)
        with self.own_time:
            for part in parts:
                totals = self._backward(part, totals)
            for _ in range(len(parts), layout.num_parts(len(parts), self._most_parts())):
                self._backward(parts[-1], totals, counts=False)
        gradients = layout.gradients()
        totals, notes = self._with_notes(totals)
        totals, norm = layout.exchange(gradients, totals)
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
        self.report.count(totals[:-notes], norm, bad, rate)
        return self._read_late(torch.cat([bad.reshape(1), totals[-notes:]]))

    def _most_parts(self) -> int:
        """Parts of the worker that has most; a loss over the whole batch comes in one."""
        if self.settings.task.whole_batch:
            return 1
        return -(-self.config.global_batch_size // self.config.micro_batch_size // self.world)

    def _with_notes(self, totals: Tensor) -> tuple[Tensor, int]:
        """Totals, then what a worker tells the others: wishes of rank 0, each one's own seconds."""
        notes = totals.new_zeros(2 + self.world)
        if self.rank == 0:
            asked = self.notices.new()
            passed = time.monotonic() - self.last_checkpoint
            due = passed >= self.config.execution.checkpoint_every_s
            if asked == "checkpoint" or (due and not self.checkpointer.is_writing):
                notes[0].fill_(1.0)
            if asked == "stop":
                notes[1].fill_(1.0)
        notes[2 + self.rank].fill_(self.waited_s + self.own_time.last_s())
        return torch.cat([totals, notes]), len(notes)

    def _backward(self, part: Part, totals: Tensor, *, counts: bool = True) -> Tensor:
        """Add a part's gradients; returns the totals with its own.

        Where it does not count it only keeps other workers company, and adds zeros.
        """
        config, task = self.config, self.settings.task
        batch = on_device(part.batch, self.settings.device)
        seed = _torch_seed(config.seed, "dropout", self.step, part.number)
        seed_torch(seed)
        losses, metrics = self.layout.compute(task.loss, batch)
        loss = weighted(losses, part).sum() / config.global_batch_size
        if not counts:
            (loss * 0.0).backward()
            return totals
        if config.sam_rho:
            with at_the_worst_nearby(list(self.layout.trained.values()), loss, config.sam_rho):
                seed_torch(seed)
                again = weighted(self.layout.compute(task.loss, batch)[0], part)
                (again.sum() / config.global_batch_size).backward()
        else:
            loss.backward()
        names = self.report.metric_names = sorted(metrics)
        means = [metrics[name].detach() * part.num_samples for name in names]
        row = torch.stack([losses.detach().sum(), *means]).to(torch.float32)
        return row if len(totals) == 0 else totals + row

    def _read_late(self, flags: Tensor | None = None) -> Wishes:
        """Look at the flags of the step before, and keep those of this one for later."""
        pending, self.late = self.late, None
        if flags is not None:
            self.late = (self.step, Late(flags))
            self.step += 1
        if pending is None:
            return Wishes()
        step, late = pending
        bad, checkpoint, stop, *own_s = late.read()
        self.report.took(own_s)
        self.nonfinite_steps = [*self.nonfinite_steps, step] if bad else []
        if len(self.nonfinite_steps) >= self.settings.max_nonfinite_steps:
            self._stop_on_nonfinite()
        return Wishes(bool(checkpoint), bool(stop))

    def _stop_as_asked(self) -> None:
        self.checkpointer.wait()
        raise PreemptedError(
            f"asked to stop: stopped at samples_seen={self.samples_seen} of "
            f"{self.settings.num_steps * self.config.global_batch_size} with a checkpoint; the "
            "same command goes on from it"
        )

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

    def _look(self) -> dict[str, float]:
        started = time.monotonic()
        found = self.moments.look(self.ema, self.samples_seen)
        stop = {"validation_stop_s": time.monotonic() - started}
        self.report.add(self.samples_seen, found | stop)
        return found

    def finish(self) -> None:
        """Last checkpoint, final numbers, published weights."""
        if checkpoints.latest(self.checkpoint_uri) is None or self.late is not None:
            self.checkpoint()
        final = self._look() if self.moments.are_here else {}
        self.moments.wait()
        self.checkpointer.wait()
        state = self.layout.published(self.ema.state())
        if self.rank == 0:
            weights = storage.join(self.settings.uri, WEIGHTS)
            weights_file.export_weights(
                weights, state, self.settings.published_config, self.settings.stage
            )
            trained = [p for p in self.model.parameters() if p.requires_grad]
            summary = {
                "final": final,
                "num_parameters": sum(parameter.numel() for parameter in trained),
                "samples": self.samples_seen,
            }
            storage.write_json(storage.join(self.settings.uri, SUMMARY), summary)
        if self.world > 1:
            dist.barrier()


def _torch_seed(seed: int, purpose: str, *numbers: int) -> int:
    return draws.hash64(seed, purpose, *numbers) >> 1  # torch takes signed 64-bit seeds
