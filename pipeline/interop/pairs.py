"""Weights under other names: one table per model, read in both directions.

A table says where each of our modules (or single parameters) lies in another layout and how its
numbers are arranged there. Nothing is computed with them, so the way there and back gives the same
bits; on the meta device a table tells every name and shape of the other layout.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.weights_file import check_state

State = dict[str, Tensor]


@dataclass(frozen=True)
class Change:
    """A rearrangement that can be undone."""

    there: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]

    def then(self, other: "Change") -> "Change":
        """One after the other on the way there."""
        return Change(lambda x: other.there(self.there(x)), lambda x: self.back(other.back(x)))


AS_IS = Change(lambda ours: ours, lambda theirs: theirs)
TRANSPOSED = Change(lambda ours: ours.T, lambda theirs: theirs.T)
AS_ROW = Change(lambda ours: ours[None], lambda theirs: theirs[0])
AS_CONVOLUTION = Change(
    lambda ours: ours[..., None] if ours.ndim > 1 else ours,
    lambda theirs: theirs[..., 0] if theirs.ndim > 1 else theirs,
)
"""A linear layer written as a convolution over single places: weights have one more dimension."""


def in_turns(parts: int, run: int) -> Change:
    """Parts of rows that we keep one behind the other stand there in turns of ``run`` rows.

    Ours are all queries, all keys, all values; theirs the queries of the first head, its keys, its
    values, then those of the second head.
    """
    return Change(
        lambda ours: ours.unflatten(0, (parts, -1, run)).transpose(0, 1).flatten(0, 2),
        lambda theirs: theirs.unflatten(0, (-1, parts, run)).transpose(0, 1).flatten(0, 2),
    )


@dataclass(frozen=True)
class Theirs:
    """Where one of our modules or parameters lies there."""

    names: tuple[str, ...]
    """Several are the equal parts of ours, along the first dimension."""
    change: Change = AS_IS


Table = Mapping[str, Theirs]
"""Path of our module or parameter → theirs."""


def at(*names: str, change: Change = AS_IS) -> Theirs:
    """An entry of a table."""
    return Theirs(names, change)


def to_theirs(state: Mapping[str, Tensor], table: Table) -> State:
    """Our weights under their names.

    Args:
        state: Ours, all of which the table knows.
        table: The other layout.
    """
    found: State = {}
    for ours, tensor in state.items():
        names, change = _entry(ours, table)
        parts = change.there(tensor).chunk(len(names))
        found |= {name: part.contiguous() for name, part in zip(names, parts, strict=True)}
    return found


def to_ours(
    theirs: Mapping[str, Tensor], own: Mapping[str, Tensor], table: Table, source: str
) -> State:
    """Their weights under our names, in float32, after comparing every name and shape.

    Args:
        theirs: What was read.
        own: Tensors with the names and shapes that we want, such as those of a meta model.
        table: The other layout.
        source: Where the weights come from, for the message.

    Raises:
        CheckpointError: Names the missing, unknown and differently shaped keys, as written there.
    """
    check_state(to_theirs(own, table), theirs, source)
    found: State = {}
    for ours in own:
        names, change = _entry(ours, table)
        whole = torch.cat([theirs[name] for name in names])
        found[ours] = change.back(whole).float().contiguous()
    return found


def _entry(ours: str, table: Table) -> tuple[tuple[str, ...], Change]:
    """Names of one of our tensors there: its own entry, or its module's with the last part."""
    if ours in table:
        return table[ours].names, table[ours].change
    module, _, leaf = ours.rpartition(".")
    entry = table[module]
    return tuple(f"{name}.{leaf}" for name in entry.names), entry.change


def meta_state(build: Callable[[], nn.Module]) -> State:
    """Names and shapes of a network, without memory for its numbers."""
    with torch.device("meta"):
        return dict(build().state_dict())
