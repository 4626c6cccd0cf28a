"""What a training is looked at for, a few times: held-out loss and pictures of its average."""

import io
import math

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from pipeline import draws, storage
from pipeline.training.batches import Part, validation_parts, weighted
from pipeline.training.device import on_device, seed_torch
from pipeline.training.ema import WeightAverage
from pipeline.training.parallel import Replicated
from pipeline.training.settings import LoopSettings

GRID_PICTURES = 16


class Moments:
    """Evenly spaced looks at a training, with fixed samples and fixed draws."""

    def __init__(self, settings: LoopSettings, layout: Replicated, rank: int, world: int) -> None:
        """Spread the moments over the run; nothing is read yet."""
        self._settings, self._layout = settings, layout
        self._rank, self._world = rank, world
        count, steps = settings.num_moments, settings.num_steps
        self._steps = {steps * (index + 1) // count for index in range(count)} - {0, steps}
        self._parts: list[Part] | None = None

    def due(self, step: int) -> bool:
        """Whether a look follows ``step`` finished steps; the end is looked at by `finish`."""
        return step in self._steps

    def look(self, ema: WeightAverage, samples_seen: int) -> dict[str, float]:
        """Validation metrics of the averaged weights, and a grid of pictures where there are any.

        The live network is unchanged afterwards.

        Args:
            ema: Its average.
            samples_seen: Names the grid.

        Returns:
            ``validation_loss`` and the task's metrics as ``validation_<name>``; empty where no
            sample is held out.
        """
        model = self._layout.model
        training = model.training
        with torch.no_grad(), ema.applied():
            model.eval()
            found = self._validate()
            self._draw(samples_seen)
        model.train(training)
        return found

    def _batches(self) -> list[Part]:
        if self._parts is None:
            settings = self._settings
            source = settings.data.source(
                settings.task, "validation", cache_bytes=0, disk=settings.disk_cache
            )
            self._parts = validation_parts(
                settings.task,
                source,
                settings.config,
                settings.validation_samples,
                self._rank,
                self._world,
            )
        return self._parts

    def _validate(self) -> dict[str, float]:
        names: list[str] = []
        rows = []
        for part in self._batches():
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
        pairs = zip(["loss", *names], values, strict=True)
        return {f"validation_{name}": value / total for name, value in pairs}

    def _draw(self, samples_seen: int) -> None:
        parts = self._batches()
        if not parts:
            return
        few = {name: value[:GRID_PICTURES] for name, value in parts[0].batch.items()}
        batch = on_device(few, self._settings.device)
        seed_torch(draws.hash64(self._settings.config.seed, "grid") >> 1)
        # All draw, since a model may be cut over the workers; one keeps what it has drawn.
        pictures = self._layout.compute(self._settings.task.pictures, batch)
        if pictures is not None and self._rank == 0:
            uri = storage.join(self._settings.uri, "grids", f"{samples_seen:012d}.png")
            storage.write_bytes(uri, grid_png(pictures))


def grid_png(pictures: UInt8[Tensor, " n 3 height width"]) -> bytes:
    """Pictures side by side, as near to a square as their number allows, as PNG."""
    tiles = pictures.cpu().permute(0, 2, 3, 1).numpy()
    number, height, width, _ = tiles.shape
    columns = math.ceil(math.sqrt(number))
    rows = math.ceil(number / columns)
    canvas = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for index, tile in enumerate(tiles):
        top, left = index // columns * height, index % columns * width
        canvas[top : top + height, left : left + width] = tile
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "PNG")
    return buffer.getvalue()
