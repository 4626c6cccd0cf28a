"""Held-out samples, and what a model makes of them: losses, health, grids of pictures."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from pipeline import draws, storage
from pipeline.models.tokenizer import tokenizer
from pipeline.training import guided
from pipeline.training.batches import Batch, Part, held_out_batch, validation_parts, weighted
from pipeline.training.device import on_device, seed_torch
from pipeline.training.grids import grid_png, guidance_png
from pipeline.training.guided import Guided
from pipeline.training.health import Judged
from pipeline.training.parallel import Replicated, Work
from pipeline.training.settings import LoopSettings
from pipeline.training.tasks import undropped

GRIDS = "grids"
"""Folder, in a stage's, of pictures named by ``samples_seen`` and, but for the first kind, a
dash and what they are."""
GRID_PICTURES = 16


@dataclass(frozen=True)
class _HeldOut:
    """What is read once and looked at again and again."""

    parts: list[Part]
    """This worker's rows, as they are trained on: conditions dropped at their rates."""
    shown: Batch | None
    """The first samples, equal for all workers, whose pictures are shown; likewise."""
    judged: Batch | None
    """The first samples, equal for all workers, with every condition."""
    guided: Batch | None
    """Likewise, fewer."""


class Validation:
    """Looks at a model with fixed samples and fixed draws."""

    def __init__(
        self, settings: LoopSettings, layout: Replicated, rank: int = 0, world: int = 1
    ) -> None:
        """Nothing is read yet; every worker makes one where a model is cut over them."""
        self._settings, self._layout = settings, layout
        self._rank, self._world = rank, world
        self._held_out: _HeldOut | None = None

    def look(self, samples_seen: int) -> dict[str, float]:
        """Metrics of the weights that the model holds now, and grids of its pictures.

        Args:
            samples_seen: Names the grids.

        Returns:
            ``validation_loss`` and further metrics as ``validation_<name>``; empty where no sample
            is held out.
        """
        model = self._layout.model
        training = model.training
        with torch.no_grad():
            model.eval()
            found = self._losses() | self._judged()
            self._draw(samples_seen)
        model.train(training)
        return {f"validation_{name}": value for name, value in found.items()}

    def _read(self) -> _HeldOut:
        if self._held_out is None:
            settings, task, config = self._settings, self._settings.task, self._settings.config
            source = settings.data.source(
                task, "validation", cache_bytes=0, disk=settings.disk_cache
            )
            whole, most = undropped(task), settings.validation_samples
            num_judged = (task.num_judged or most) if isinstance(task, Judged) else 0
            num_guided = guided.NUM_GUIDED if isinstance(task, Guided) else 0
            self._held_out = _HeldOut(
                validation_parts(task, source, config, most, self._rank, self._world),
                held_out_batch(task, source, config, min(GRID_PICTURES, most)),
                held_out_batch(whole, source, config, min(num_judged, most)),
                held_out_batch(whole, source, config, min(num_guided, most)),
            )
        return self._held_out

    def _losses(self) -> dict[str, float]:
        names: list[str] = []
        rows = []
        for part in self._read().parts:
            batch = on_device(part.batch, self._settings.device)
            losses, metrics = self._layout.compute(self._settings.task.loss, batch)
            names = sorted(metrics)
            means = torch.stack([weighted(losses, part).mean(), *(metrics[name] for name in names)])
            count = means.new_tensor([float(part.num_samples)])
            rows.append(torch.cat([count, means * part.num_samples]).to(torch.float64))
        if not rows:
            return {}
        sums = torch.stack(rows).sum(dim=0)
        if self._world > 1:
            dist.all_reduce(sums)
        total, *values = sums.tolist()
        return {name: value / total for name, value in zip(["loss", *names], values, strict=True)}

    def _judged(self) -> dict[str, float]:
        """What the task judges of all rows together; every worker makes them all."""
        task, batch = self._settings.task, self._read().judged
        if batch is None or not isinstance(task, Judged):
            return {}
        config, parts = self._settings.config, []
        num, size = len(next(iter(batch.values()))), config.micro_batch_size
        for start in range(0, num, size):
            rows = range(start, min(start + size, num))
            part = on_device(
                {n: v[start : rows.stop] for n, v in batch.items()}, self._settings.device
            )
            seeds = [draws.hash64(config.seed, "look", row) >> 1 for row in rows]
            parts.append(
                self._layout.compute(lambda model, some, s=seeds: task.made(model, some, s), part)
            )
        return task.judge({name: torch.cat([part[name] for part in parts]) for name in parts[0]})

    def _draw(self, samples_seen: int) -> None:
        held_out, task = self._read(), self._settings.task
        if held_out.shown is not None:
            pictures = self._pictures(task.pictures, held_out.shown)
            if pictures is not None:
                self._keep(f"{samples_seen:012d}.png", grid_png(pictures))
        if held_out.guided is not None and isinstance(task, Guided):
            pictures = self._pictures(task.guided_pictures, held_out.guided)
            captions = [tokenizer().decode(row) for row in held_out.guided["text_tokens"].tolist()]
            content = guidance_png(pictures, guided.SCALES, captions)
            self._keep(f"{samples_seen:012d}-guidance.png", content)

    def _pictures(self, work: Work, batch: Batch) -> Any:  # noqa: ANN401 - the work's own
        # All draw, since a model may be cut over the workers; one keeps what it has drawn.
        seed_torch(draws.hash64(self._settings.config.seed, "grid") >> 1)
        return self._layout.compute(work, on_device(batch, self._settings.device))

    def _keep(self, name: str, content: bytes) -> None:
        if self._rank == 0:
            storage.write_bytes(storage.join(self._settings.uri, GRIDS, name), content)
