"""How long the loop stops for a checkpoint, against a synchronous save; and what EMA costs a step.

``python -m tests.benchmarks.checkpointing``. Stops are compared for the demo's decoder and for a
prior of 50 M parameters, both with AdamW's moments and the average, one thread; beside the ratio
stand seconds, and by how much steps slow down while a checkpoint is written. EMA is compared as
steps with the average and without, on random batches of the demo's sizes.
"""

import sys
import tempfile
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline import checkpoints
from pipeline.models.config import ClipShape, PriorConfig
from pipeline.models.presets import DEMO_DECODER, DEMO_PRIOR, build_decoder, build_prior
from pipeline.training.checkpointing import Checkpointer
from pipeline.training.device import fixed_arithmetic
from pipeline.training.ema import WeightAverage
from pipeline.training.optim import adamw, gradient_norm, masked_step, optimizer_state
from tests.benchmarks.paired import compare, finish

STOP_AT_MOST = 0.2
EMA_AT_MOST = 0.05
STEPS = 12
SLOWED_S = 4.0
LARGE_PRIOR = PriorConfig(clip=ClipShape(embed_dim=512, text_width=512), width=1024, layers=4)


class Trained:
    """A network with optimiser and average, and steps on one random batch."""

    def __init__(self, network: nn.Module, batch: int, *inputs: Callable[[], Tensor]) -> None:
        self.network = network.train()
        self.optimizer = adamw(network, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
        self.ema = WeightAverage(network, 0.99)
        self.inputs = [make() for make in inputs]
        self.batch = batch
        self.no_bad = torch.zeros(())

    def step(self, *, average: bool) -> None:
        self.network(*self.inputs).square().mean().backward()
        gradients = [p.grad if p.grad is not None else p.new_zeros(()) for p in self.parameters()]
        masked_step(self.optimizer, gradient_norm(gradients), self.no_bad, 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        if average:
            self.ema.update(1_000_000)

    def parameters(self) -> list[Tensor]:
        return list(self.network.parameters())

    def state(self) -> checkpoints.State:
        return {
            "model": dict(self.network.state_dict()),
            "optimizer": optimizer_state(self.network, self.optimizer),
            "ema": self.ema.state(),
        }

    def rate(self, *, average: bool) -> float:
        self.step(average=average)
        started = time.perf_counter()
        for _ in range(STEPS):
            self.step(average=average)
        return STEPS * self.batch / (time.perf_counter() - started)


def prior(config: PriorConfig, batch: int) -> Trained:
    dim, width, tokens = config.clip.embed_dim, config.clip.text_width, 12
    return Trained(
        build_prior(config),
        batch,
        lambda: torch.randn(batch, dim),
        lambda: torch.randint(1000, (batch,)),
        lambda: torch.randn(batch, dim),
        lambda: torch.randn(batch, tokens, width),
        lambda: torch.ones(batch, tokens, dtype=torch.bool),
    )


def decoder(batch: int) -> Trained:
    return Trained(
        build_decoder(DEMO_DECODER),
        batch,
        lambda: torch.randn(batch, 3, 16, 16),
        lambda: torch.randint(1000, (batch,)),
        lambda: torch.randn(batch, 64),
        lambda: torch.ones(batch, dtype=torch.bool),
        lambda: torch.randn(batch, 64),
        lambda: torch.randn(batch, 12, 64),
        lambda: torch.ones(batch, 12, dtype=torch.bool),
    )


def compare_stops(name: str, trained: Trained) -> dict:
    state = trained.state()
    stops, saves = [], []
    with tempfile.TemporaryDirectory(prefix="checkpointing-") as folder:
        writer = Checkpointer(folder, 1, 0, 1)
        writer.start(state, 0, before=lambda: None)  # allocates the copy, as a run's first does
        writer.wait()

        def ours() -> float:
            started = time.perf_counter()
            writer.start(state, 1, before=lambda: None)
            stops.append(time.perf_counter() - started)
            writer.wait()
            return 1 / stops[-1]

        def peer() -> float:
            started = time.perf_counter()
            checkpoints.save(folder, state, 2)
            checkpoints.keep_last(folder, 1)
            saves.append(time.perf_counter() - started)
            return 1 / saves[-1]

        found = compare(
            f"stop of the loop, {name}",
            ours,
            peer,
            unit="1/s",
            at_least=1 / STOP_AT_MOST,
            peer_named={
                "command": "pipeline.checkpoints.save",
                "version": torch.__version__,
                "state_bytes": sum(t.nbytes for group in state.values() for t in group.values()),
            },
        )
        slowed = _slowed(trained, writer)
    middle = len(stops) // 2
    return found | {
        "stop_s": sorted(stops)[middle],
        "save_s": sorted(saves)[middle],
        "steps_beside_a_write_take_times": slowed,
    }


def _slowed(trained: Trained, writer: Checkpointer) -> float:
    """Time of a step while checkpoints are written one after another, over its time without."""

    def step_s(*, writing: bool) -> float:
        started, steps = time.perf_counter(), 0
        while time.perf_counter() - started < SLOWED_S:
            if writing and not writer.is_writing:
                writer.start(trained.state(), 3, before=lambda: None)
            trained.step(average=True)
            steps += 1
        elapsed = time.perf_counter() - started
        writer.wait()
        return elapsed / steps

    step_s(writing=False)
    return step_s(writing=True) / step_s(writing=False)


def compare_ema(name: str, trained: Trained) -> dict:
    return compare(
        f"steps with EMA, {name}",
        lambda: trained.rate(average=True),
        lambda: trained.rate(average=False),
        unit="samples/s",
        at_least=1 - EMA_AT_MOST,
        peer_named={"command": "the same steps without the average", "version": torch.__version__},
    )


def main() -> int:
    """Both comparisons."""
    torch.manual_seed(0)
    with fixed_arithmetic(1):
        results = [
            compare_stops("demo decoder", decoder(32)),
            compare_stops("prior of 50 M", prior(LARGE_PRIOR, 8)),
            compare_ema("demo prior", prior(DEMO_PRIOR, 64)),
            compare_ema("demo decoder", decoder(16)),
        ]
    return finish(results)


if __name__ == "__main__":
    sys.exit(main())
