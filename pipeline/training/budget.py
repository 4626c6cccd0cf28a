"""What a training takes before anything is taken: parameters, operations, memory of one worker.

A step of the real loop's parts runs on fake tensors, which have shapes and no numbers: the task's
loss and its gradients, the exchange between workers, the optimiser, the average. Operations are
those that PyTorch's counter knows (products, convolutions, attention); memory is that of all
storages alive at once. The arithmetic is the CPU's, whose attention keeps as little for the
gradients as a GPU's flash kernels do. Beyond the figure lie the CUDA context, the libraries' work
spaces, the allocator's gaps and what compiled blocks would save.

Cut over workers (fsdp, hsdp), the passes run on whole parameters and are counted by rule: every
worker holds its part of parameters, gradients, moments and average; while passing also the
parameters outside of blocks and two blocks, one computing and one on its way, and their gradients
(Zhao et al. 2023, PyTorch FSDP, §3.2 to 3.3).
"""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from pipeline.models import presets
from pipeline.models.clip import ClipModel
from pipeline.models.config import CONTEXT_LENGTH, VOCABULARY_SIZE, ClipConfig
from pipeline.shards.loader import Sample
from pipeline.shards.views import shrunk
from pipeline.training.batches import Part
from pipeline.training.config import (
    AutoregressivePriorTaskConfig,
    ClipTaskConfig,
    DecoderTaskConfig,
    PriorTaskConfig,
    TaskConfig,
    TrainConfig,
)
from pipeline.training.ema import WeightAverage
from pipeline.training.inputs import TaskInputs
from pipeline.training.optim import adamw, masked_step
from pipeline.training.parallel import lay_out
from pipeline.training.sam import at_the_worst_nearby
from pipeline.training.tasks import Task, build_task
from pipeline.training.warm_start import prepared

SHARE_OF_COMPONENTS = 319 / 1024
"""Principal components that an autoregressive prior keeps, which only the data decide: the paper's
share (§2.2)."""
LONG_CAPTION = "a " * 400
"""Longer than any context, so that no position is left out."""
FLOAT32, BFLOAT16 = 4, 2


@dataclass(frozen=True)
class Budget:
    """What one training takes."""

    parameters: int
    """Trained numbers."""
    frozen_parameters: int
    """Of the CLIP that captions are read through."""
    forward_flops: float
    """Operations of one sample's loss, a multiplication and an addition being two."""
    training_flops: float
    """Operations of one sample in training: forward, backward, and what is computed again for
    activation checkpointing or sharpness-aware minimisation."""
    state_bytes: int
    """On one worker: parameters, moments, average, buffers and the frozen CLIP."""
    peak_bytes: int
    """On one worker: the most that is alive at once in a step."""
    micro_batch: int
    """Samples of one pass on a worker."""


def budget(config: TrainConfig, clip: ClipConfig | None = None) -> Budget:
    """What a training takes on each of its workers.

    Args:
        config: The training; its execution says over how many workers it is cut, and how.
        clip: The CLIP that captions are read through, which a prior and a decoder need.
    """
    execution = config.execution.model_copy(update={"compile_blocks": False})
    config = config.model_copy(update={"execution": execution})
    world = max(1, execution.num_workers)
    with FakeTensorMode(allow_non_fake_inputs=True), Alive() as alive:
        step = Rehearsal(config, clip, world)
        state_bytes = alive.now_bytes
        alive.restart_peak()
        operations = step.passes()
        if execution.strategy == "ddp" or world == 1:
            step.update()
            peak_bytes = alive.peak_bytes
        else:
            shards = execution.shard_workers or world
            passing = alive.peak_bytes - state_bytes
            state_bytes = step.frozen_bytes + 4 * FLOAT32 * step.parameters // shards
            peak_bytes = state_bytes + FLOAT32 * step.parameters // shards + passing
            peak_bytes += step.gathered_bytes()
    if isinstance(config.task, ClipTaskConfig) and world > 1:
        peak_bytes += _gathered_rows_bytes(config, config.task)
    return Budget(
        parameters=step.parameters,
        frozen_parameters=step.frozen_parameters,
        forward_flops=operations[0] / step.rows,
        training_flops=operations[1] / step.rows,
        state_bytes=state_bytes,
        peak_bytes=peak_bytes,
        micro_batch=step.rows,
    )


def _gathered_rows_bytes(config: TrainConfig, task: ClipTaskConfig) -> int:
    """Both embeddings of the whole batch in CLIP's loss: in parts, joined, and their gradients."""
    return 3 * config.global_batch_size * 2 * task.model.embed_dim * FLOAT32


class Rehearsal:
    """One optimiser step as the training loop takes it, of the same sample over and over."""

    def __init__(self, config: TrainConfig, clip: ClipConfig | None, world: int) -> None:
        """Build what the loop builds; arguments as for `budget`."""
        self.config = config
        self._is_joined = world > 1 and config.execution.strategy == "ddp"
        self._is_cut = world > 1 and not self._is_joined
        frozen = None if clip is None or not _reads_captions(config.task) else _frozen(clip)
        self.task = build_task(config.task, TaskInputs(clip=frozen))
        network = prepared(_network(config.task), config, None).train()
        self.parameters = presets.num_parameters(network)
        self._outside, self._largest = _layers(network)
        self.frozen_parameters = 0 if frozen is None else presets.num_parameters(frozen)
        self.frozen_bytes = FLOAT32 * self.frozen_parameters
        self._lay_out(network)
        micro_batches = config.global_batch_size // config.micro_batch_size
        parts = -(-micro_batches // world)
        self.rows = config.micro_batch_size * (parts if self.task.whole_batch else 1)
        self._num_parts = 1 if self.task.whole_batch else min(parts, 2)
        self._arrays = example(self.task, config.task, clip)

    def _lay_out(self, network: nn.Module) -> None:
        config = self.config
        if self._is_cut:
            _as_gathered(network, config)
        self.layout = lay_out(network, config, "cpu", rank=0, world=1)
        self.optimizer = adamw(
            network,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            factors=config.learning_rate_factors,
        )
        self.average = WeightAverage(network, config.ema_decay)

    def passes(self) -> tuple[int, int]:
        """Forward and backward, twice where gradients add up; operations of one pass."""
        forward = both = 0
        for _ in range(self._num_parts):
            with counted() as counter:
                forward = self._backward(counter)
                both = counter.get_total_flops()
        return forward, both

    def _backward(self, counter: FlopCounterMode) -> int:
        part = Part(0, {n: _repeated(a, self.rows) for n, a in self._arrays.items()}, self.rows)
        loss = self._loss(part)
        forward = counter.get_total_flops()
        if self.config.sam_rho:
            trained = list(self.layout.trained.values())
            with at_the_worst_nearby(trained, loss, self.config.sam_rho):
                self._loss(part).backward()
        else:
            loss.backward()
        return forward

    def _loss(self, part: Part) -> Tensor:
        losses, _ = self.layout.compute(self.task.loss, part.batch)
        return losses.sum() / self.config.global_batch_size

    def update(self) -> None:
        """Exchange the gradients, take the optimiser's step, move the average."""
        gradients, totals = self.layout.gradients(), torch.zeros(4)
        if self._is_joined:
            flat = torch.cat([*(gradient.reshape(-1) for gradient in gradients), totals])
            totals = flat[-4:].clone()
            del flat
        totals, norm = self.layout.exchange(gradients, totals)
        masked_step(self.optimizer, norm, torch.zeros(()), self.config.grad_clip_norm)
        self.average.update(0)

    def gathered_bytes(self) -> int:
        """Whole parameters and gradients on a worker at once, where they are cut over workers."""
        size = BFLOAT16 if self.config.precision == "bfloat16" else FLOAT32
        parameters = (self._outside + 2 * self._largest) * size
        gradients = (self._outside + self._largest) * size
        summing = max(self._outside, self._largest) * FLOAT32
        return parameters + gradients + summing


def _reads_captions(task: TaskConfig) -> bool:
    return isinstance(task, PriorTaskConfig | AutoregressivePriorTaskConfig) or (
        isinstance(task, DecoderTaskConfig) and task.model.text.type == "clip"
    )


def _frozen(clip: ClipConfig) -> ClipModel:
    return presets.build_clip(clip).requires_grad_(False).eval()


def _network(task: TaskConfig) -> nn.Module:
    if isinstance(task, ClipTaskConfig):
        return presets.build_clip(task.model)
    if isinstance(task, PriorTaskConfig):
        return presets.build_prior(task.model)
    if isinstance(task, AutoregressivePriorTaskConfig):
        kept = max(2, round(task.model.clip.embed_dim * SHARE_OF_COMPONENTS))
        return presets.build_autoregressive_prior(task.model, kept)
    if isinstance(task, DecoderTaskConfig):
        return presets.build_decoder(task.model)
    return presets.build_upsampler(task.model)


def _layers(network: nn.Module) -> tuple[int, int]:
    """Numbers outside of repeated blocks, and of the largest block."""
    blocks = [module for module in network.modules() if isinstance(module, presets.BLOCKS)]
    sizes = [presets.num_parameters(block) for block in blocks]
    return presets.num_parameters(network) - sum(sizes), max(sizes, default=0)


def _as_gathered(network: nn.Module, config: TrainConfig) -> None:
    """Parameters as ``fully_shard`` hands them to a pass, whose gradients leave at once.

    Neither stays, so that what the passes take beyond the state is the activations.
    """
    dtype = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                cast = nn.Parameter(parameter.detach().to(dtype))
                cast.register_post_accumulate_grad_hook(_drop_gradient)
                module._parameters[name] = cast


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def example(
    task: Task, config: TaskConfig, clip: ClipConfig | None, caption: str = LONG_CAPTION
) -> Mapping[str, np.ndarray]:
    """The arrays of one sample, by the task's own preparation: shapes and kinds are what counts."""
    side = task.view_px
    shape = getattr(config.model, "clip", None)
    dim = shape.embed_dim if shape is not None else 1
    tokens = np.ones(clip.text.context_length if clip is not None else CONTEXT_LENGTH, np.int64)
    tokens[-1] = VOCABULARY_SIZE - 1  # the end mark, where a caption ends
    sample = Sample(
        position=0,
        key="example",
        image=None if side is None else shrunk(_blank(side), task.image_px or side),
        captions=(caption,),
        text_tokens=(tokens,) if task.needs_embeddings else (),
        z_img=np.ones(dim, np.float32),
        z_txt=(np.ones(dim, np.float32),),
    )
    return task.prepare(sample, np.random.default_rng(0))


def _blank(side_px: int) -> UInt8[np.ndarray, " side side 3"]:
    return np.zeros((side_px, side_px, 3), np.uint8)


def _repeated(array: np.ndarray, rows: int) -> Tensor:
    return torch.from_numpy(array).expand(rows, *array.shape).clone()


def counted() -> FlopCounterMode:
    """PyTorch's counter, which knows every attention but the CPU's."""
    aten = torch.ops.aten

    def forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:  # noqa: ANN401
        return sdpa_flop_count(query, key, value)

    def backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:  # noqa: ANN401
        return sdpa_backward_flop_count(grad, query, key, value)

    of_attention: dict[Any, Callable[..., int]] = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    return FlopCounterMode(display=False, custom_mapping=of_attention)


class Alive(TorchDispatchMode):
    """Bytes of all storages that are alive, and the most at once, of what is made in the block.

    Numbers that a program asks tensors for, to leave out what no caption of a batch reaches, are
    answered with the largest: nothing is left out.
    """

    def __init__(self) -> None:
        """Nothing is made yet."""
        super().__init__()
        self.now_bytes = self.peak_bytes = 0
        self._known: dict[int, weakref.finalize] = {}

    def restart_peak(self) -> None:
        """Forget the peak so far."""
        self.peak_bytes = self.now_bytes

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - torch's own
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Run an operation and count the storages of its results."""
        if func is torch.ops.aten._local_scalar_dense.default:
            return 2**31 - 1
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        identity = storage._cdata
        if identity in self._known:
            return
        num_bytes = storage.nbytes()
        self._known[identity] = weakref.finalize(storage, self._gone, identity, num_bytes)
        self.now_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self.now_bytes)

    def _gone(self, identity: int, num_bytes: int) -> None:
        self._known.pop(identity, None)
        self.now_bytes -= num_bytes
