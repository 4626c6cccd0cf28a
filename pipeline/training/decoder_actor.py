"""A decoder on any node of the Ray cluster: for nodes with few cores beside their GPUs.

The rows are the same, in the same order, as from a process of the worker; they travel through Ray's
object store. Dimension names: ``row``.
"""

from collections import deque
from types import TracebackType
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayActorError, RayTaskError

from pipeline.draws import Streams, hash64
from pipeline.errors import PipelineError
from pipeline.training.decoder_child import Arrays, Told, open_loader, prepared


class _Making:
    """What runs on the other node."""

    def __init__(self, told: Told) -> None:
        torch.set_num_threads(1)
        self._told = told
        self._loader = open_loader(told.settings, told.share.processes)
        self._samples = self._loader.read(told.share, told.first_step)
        self._streams = Streams(hash64(told.settings.config.seed, "sample"))

    def make(self) -> Arrays:
        """The rows of the next step; none where no lane of its share has one."""
        settings, loader = self._told.settings, self._loader
        rows = [prepared(settings, loader, s, self._streams) for s in next(self._samples)]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]} if rows else {}


class ActorDecoder:
    """One decoder, seen from its worker; a context manager."""

    def __init__(self, told: Told) -> None:
        """Start the actor, which takes one CPU of whichever node has one."""
        self._share = told.share
        options: dict[str, Any] = {"num_cpus": 1, "scheduling_strategy": "SPREAD"}
        self._actor: Any = ray.remote(**options)(_Making).remote(told)
        self._coming: deque[ray.ObjectRef] = deque()

    def __enter__(self) -> "ActorDecoder":
        """Nothing to do."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the actor."""
        ray.kill(self._actor)

    def ask(self, step: int) -> None:
        """Let it make the next step's rows."""
        self._coming.append(self._actor.make.remote())

    def rows(self, step: int) -> Arrays:
        """The rows of the step that was asked for first.

        Raises:
            PipelineError: What the decoder found wrong.
            RuntimeError: Its node or its process is gone.
        """
        try:
            return ray.get(self._coming.popleft())
        except RayTaskError as error:
            if isinstance(error.cause, PipelineError):
                raise error.cause from error
            raise
        except RayActorError as error:
            raise RuntimeError(
                f"decoder {self._share.number} of {self._share.processes} of worker "
                f"{self._share.rank} is gone: {error}"
            ) from error
