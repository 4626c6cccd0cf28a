"""How a model lies on the workers, and what they tell each other in a step.

`Replicated`: every worker holds the whole model, and the gradients are summed in one exchange.
`Sharded`: parameters, gradients, optimiser and average are cut along their first dimension over all
workers (FSDP, Rajbhandari et al. 2020 ZeRO-3, by PyTorch's ``fully_shard``), or over groups of them
that hold the same (HSDP). Both sum gradients over the workers; the loop divides by the global
batch, so workers may hold different numbers of samples (contract 18).

The loop, the optimiser and the average work on plain tensors, this worker's part of each
parameter; only checkpoints see what they are parts of.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from pipeline.errors import ConfigError
from pipeline.models.layers import keep_only_inputs
from pipeline.models.presets import BLOCKS
from pipeline.training.config import TrainConfig
from pipeline.training.device import local
from pipeline.training.optim import gradient_norm

Work = Callable[[nn.Module, dict[str, Tensor]], Any]
COMPILED_SHAPES = 128
"""Blocks of different shapes, and inputs of different shapes, that are compiled at most."""


def lay_out(
    model: nn.Module, config: TrainConfig, device: str, rank: int, world: int
) -> "Replicated":
    """Prepare a fresh model for training as the configuration says.

    Args:
        model: On the CPU, with the same values on every worker.
        config: Execution, and the precision of the arithmetic.
        device: Where this worker computes.
        rank: This worker.
        world: Number of workers; a single one holds all, whatever the strategy.

    Raises:
        ConfigError: The workers do not divide into groups.
    """
    execution = config.execution
    blocks = [module for module in model.modules() if isinstance(module, BLOCKS)]
    if execution.compile_blocks:
        # Set by attribute: torch's stubs do not know what its own config module defines.
        torch._dynamo.config.recompile_limit = COMPILED_SHAPES  # type: ignore[attr-defined]
        for block in blocks:
            block.forward = torch.compile(block.forward)
    if execution.activation_checkpointing:
        keep_only_inputs(model, BLOCKS)
    if execution.strategy == "ddp" or world == 1:
        return Replicated(model, config, device, rank, world)
    return Sharded(model, config, device, rank, world)


class Replicated:
    """Every worker holds the whole model."""

    def __init__(
        self, model: nn.Module, config: TrainConfig, device: str, rank: int, world: int
    ) -> None:
        """Move the model to the device; made by `lay_out`."""
        self.model, self._rank, self._world = model, rank, world
        self._device = torch.device(device)
        self._half = config.precision == "bfloat16"
        self._place(model, config)
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.trained = {name: local(parameter) for name, parameter in parameters.items()}
        """This worker's part of every trained parameter."""
        self._parameters = parameters

    def _place(self, model: nn.Module, config: TrainConfig) -> None:
        del config
        if self._device.type == "cuda":
            # What tensor cores want of convolutions; their inputs are channels last already.
            model.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def compute(self, work: Work, batch: dict[str, Tensor]) -> Any:  # noqa: ANN401 - the work's own
        """Run ``work(model, batch)`` with whole parameters, in the configured arithmetic."""
        with self._arithmetic():
            return work(self.model, batch)

    def _arithmetic(self) -> AbstractContextManager:
        """bf16 where it is safe, on float32 parameters: autocast, without loss scaling."""
        kind = self._device.type
        return torch.autocast(kind, torch.bfloat16, enabled=self._half, cache_enabled=False)

    def num_parts(self, own: int, most: int) -> int:
        """Passes of a worker in a step, of its own parts and of the worker that has most."""
        del most
        return own

    def gradients(self) -> list[Tensor]:
        """This worker's part of the gradients, zeros where there is none, in ``trained``'s order.

        They are where the optimiser finds them.
        """
        for mine in self.trained.values():
            if mine.grad is None:
                mine.grad = torch.zeros_like(mine)
        return [mine.grad for mine in self.trained.values() if mine.grad is not None]

    def exchange(self, gradients: list[Tensor], totals: Tensor) -> tuple[Tensor, Tensor]:
        """Sum gradients (in place) and totals over the workers.

        Args:
            gradients: What `gradients` returned.
            totals: Further numbers of this worker.

        Returns:
            Summed totals, and the norm of the whole gradient; equal on all workers.
        """
        if self._world > 1:
            flat = torch.cat([*(gradient.reshape(-1) for gradient in gradients), totals])
            dist.all_reduce(flat)
            sizes = [gradient.numel() for gradient in gradients]
            *parts, totals = flat.split([*sizes, len(totals)])
            views = [part.view_as(grad) for part, grad in zip(parts, gradients, strict=True)]
            torch._foreach_copy_(gradients, views)  # type: ignore[attr-defined]
        return totals, gradient_norm(gradients)

    def as_saved(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors as checkpoints hold them, in any number of parts.

        Args:
            named: This worker's part of tensors that are shaped like parameters, by the
                parameter's name, perhaps followed by a slash and more.
        """
        return dict(named)

    def published(self, averages: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A full state dict of averages and the model's own buffers; every worker calls it.

        Returns:
            In one piece on the CPU, on the first worker alone.
        """
        state = self.model.state_dict() | self.as_saved(averages)
        found = {}
        for name, tensor in state.items():
            joined = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if self._rank == 0:
                found[name] = joined.detach().cpu()
        return found


class _Root(nn.Module):
    """What ``fully_shard`` takes for the model: all that a task does of it is one forward pass.

    Parameters outside of blocks are whole in there, whichever part of the model a task calls.
    """

    def __init__(self, layout: "Sharded", model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._arithmetic = layout._arithmetic

    def forward(self, work: Work, batch: dict[str, Tensor]) -> Any:  # noqa: ANN401 - the work's own
        with self._arithmetic():
            return work(self.model, batch)


class Sharded(Replicated):
    """Every worker holds a part of each parameter; blocks are whole while they compute."""

    def _place(self, model: nn.Module, config: TrainConfig) -> None:
        execution, kind = config.execution, self._device.type
        shards = execution.shard_workers or self._world
        if self._world % shards:
            raise ConfigError(
                f"execution.shard_workers={shards} does not divide the {self._world} workers"
            )
        self._copies = self._world // shards
        sizes, names = (self._copies, shards), ("copy", "shard")
        first = 0 if self._copies > 1 else 1
        mesh = init_device_mesh(kind, sizes[first:], mesh_dim_names=names[first:])
        # Single numbers cannot be cut (CLIP's temperature): all hold them and exchange them.
        self._single = [parameter for parameter in model.parameters() if parameter.ndim == 0]
        for parameter in self._single:
            parameter.data = parameter.data.to(self._device)
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if self._half else None,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,  # autocast's business
        )
        self._root = _Root(self, model)
        blocks = [module for module in model.modules() if isinstance(module, BLOCKS)]
        for module in [*blocks, self._root]:
            fully_shard(
                module,
                mesh=mesh,
                reshard_after_forward=True,  # of the root too: its parameters change in `applied`
                mp_policy=policy,
                ignored_params=set(self._single),
            )
        for block in blocks:
            if hasattr(block, "extend"):  # what draws token by token asks for instead
                register_fsdp_forward_method(block, "extend")
        for module in self._root.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)

    def compute(self, work: Work, batch: dict[str, Tensor]) -> Any:  # noqa: ANN401 - the work's own
        """As `Replicated.compute`; every worker calls it equally often."""
        return self._root(work, batch)

    def num_parts(self, own: int, most: int) -> int:
        """All workers pass equally often, since each pass gathers from all of them."""
        return max(own, most)

    def gradients(self) -> list[Tensor]:
        """As `Replicated.gradients`; summed over the workers already, but for single numbers."""
        for name, parameter in self._parameters.items():
            mine = self.trained[name]
            if mine is not parameter:
                mine.grad = None if parameter.grad is None else local(parameter.grad)
                parameter.grad = None
        return super().gradients()

    def exchange(self, gradients: list[Tensor], totals: Tensor) -> tuple[Tensor, Tensor]:
        """As `Replicated.exchange`."""
        single = [p.grad for p in self._single if p.grad is not None]
        is_cut = [mine.ndim > 0 for mine in self.trained.values()]
        cut = [grad for grad, cut in zip(gradients, is_cut, strict=True) if cut]
        squares = gradient_norm(cut).square() / self._copies
        flat = torch.cat([totals, squares.reshape(1), *(grad.reshape(1) for grad in single)])
        dist.all_reduce(flat)
        for grad, summed in zip(single, flat[len(totals) + 1 :], strict=True):
            grad.copy_(summed)
        rest = flat[len(totals) :].clone()
        rest[1:].square_()
        return flat[: len(totals)], rest.sum().sqrt()

    def as_saved(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As `Replicated.as_saved`."""
        found = {}
        for key, mine in named.items():
            whole = self._parameters[key.split("/")[0]]
            if isinstance(whole, DTensor) and mine.ndim == whole.ndim:
                mine = DTensor.from_local(
                    mine,
                    whole.device_mesh,
                    whole.placements,
                    run_check=False,
                    shape=whole.shape,
                    stride=whole.stride(),
                )
            found[key] = mine
        return found
