"""What a training is looked at for, a few times: held-out loss and pictures of its average."""

import io
import math

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor, nn

from pipeline import draws, storage
from pipeline.training.batches import Part, validation_parts, weighted
from pipeline.training.device import seed_torch
from pipeline.training.ema import WeightAverage
from pipeline.training.settings import LoopSettings

GRID_PICTURES = 16


class Moments:
    """Evenly spaced looks at a training, with fixed samples and fixed draws."""

    def __init__(self, settings: LoopSettings, rank: int, world: int) -> None:
        """Spread the moments over the run; nothing is read yet."""
        self._settings, self._rank, self._world = settings, rank, world
        count, steps = settings.num_moments, settings.num_steps
        self._steps = {steps * (index + 1) // count for index in range(count)} - {0, steps}
        self._parts: list[Part] | None = None

    def due(self, step: int) -> bool:
        """Whether a look follows ``step`` finished steps; the end is looked at by `finish`."""
        return step in self._steps

    def look(self, model: nn.Module, ema: WeightAverage, samples_seen: int) -> dict[str, float]:
        """Validation metrics of the averaged weights, and a grid of pictures where there are any.

        Args:
            model: The live network; unchanged afterwards.
            ema: Its average.
            samples_seen: Names the grid.

        Returns:
            ``validation_loss`` and the task's metrics as ``validation_<name>``; empty where no
            sample is held out.
        """
        training = model.training
        with torch.no_grad(), ema.applied():
            model.eval()
            found = self._validate(model)
            self._draw(model, samples_seen)
        model.train(training)
        return found

    def _batches(self) -> list[Part]:
        if self._parts is None:
            settings = self._settings
            source = settings.data.source(settings.task, "validation", cache_bytes=0, open_shards=1)
            self._parts = validation_parts(
                settings.task,
                source,
                settings.config,
                settings.validation_samples,
                self._rank,
                self._world,
            )
        return self._parts

    def _validate(self, model: nn.Module) -> dict[str, float]:
        names: list[str] = []
        rows = []
        for part in self._batches():
            losses, metrics = self._settings.task.loss(model, self._on_device(part))
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

    def _draw(self, model: nn.Module, samples_seen: int) -> None:
        parts = self._batches()
        if self._rank != 0 or not parts:
            return
        batch = {name: value[:GRID_PICTURES] for name, value in self._on_device(parts[0]).items()}
        seed_torch(draws.hash64(self._settings.config.seed, "grid") >> 1)
        pictures = self._settings.task.pictures(model, batch)
        if pictures is not None:
            uri = storage.join(self._settings.uri, "grids", f"{samples_seen:012d}.png")
            storage.write_bytes(uri, grid_png(pictures))

    def _on_device(self, part: Part) -> dict[str, Tensor]:
        return {name: value.to(self._settings.device) for name, value in part.batch.items()}


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
