"""CLIP over the pictures and captions of one shard, in batches of one fixed size.

Threads of this process fill batches while CLIP computes, so that pixels are copied to no other
process; the decoders of pictures let go of the interpreter's lock while they work. Of decoded
batches at most ``BATCHES_AHEAD`` and one are held. Nothing waits for the device before the shard's
last batch. Dimension names: ``row``, ``side``, ``dim``.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from jaxtyping import Float16, UInt8
from PIL import Image
from torch import Tensor

from pipeline.models.clip import ClipModel
from pipeline.models.pictures import to_unit
from pipeline.models.tokenizer import pad

BATCHES_AHEAD = 2
"""Batches that are decoded while one is computed; bounds the memory of decoded pictures."""

Pixels = UInt8[np.ndarray, " side side 3"]


class ClipEncoder:
    """A CLIP on its device, ready to embed shards."""

    def __init__(
        self, clip: ClipModel, batch_size: int, device: torch.device, num_decoders: int = 0
    ) -> None:
        """Put CLIP on its device.

        Args:
            clip: The model.
            batch_size: Rows of every forward pass.
            device: Where it computes.
            num_decoders: Threads that decode ahead; 0 decodes between batches.
        """
        self._clip, self._batch_size, self._device = clip.eval().to(device), batch_size, device
        self._num_decoders = num_decoders
        self.side_px = clip.config.vision.image_px
        """Side of the pictures that CLIP reads."""
        self.precision = _precision(device)
        """``bfloat16`` where the device computes in it natively, else ``float32``."""

    def images(
        self, pictures: Sequence[bytes], decode: Callable[[bytes], Pixels]
    ) -> Float16[np.ndarray, " row dim"]:
        """Raw z_img of encoded pictures, in their order.

        Args:
            pictures: Encoded.
            decode: Encoded picture → square of CLIP's side; called in the decoding threads.
        """
        return self._embedded(self._decoded(pictures, decode), self.encode_images, len(pictures))

    def texts(self, token_lists: Sequence[Sequence[int]]) -> Float16[np.ndarray, " row dim"]:
        """Raw z_txt of captions, in their order."""
        batches = (pad(batch) for batch in self._batches(token_lists))
        return self._embedded(batches, self.encode_texts, len(token_lists))

    def encode_images(self, batch: UInt8[np.ndarray, " row side side 3"]) -> Tensor:
        """One forward pass; the result stays on the device."""
        # Channels first in memory too, as in training and as the model computes fastest.
        images = self._moved(batch).permute(0, 3, 1, 2).contiguous()
        return self._clip.encode_image(to_unit(images))

    def encode_texts(self, batch: np.ndarray) -> Tensor:
        """Likewise for padded token ids."""
        return self._clip.encode_text(self._moved(batch))[0]

    def _embedded(
        self, batches: Iterator[np.ndarray], encode: Callable[[np.ndarray], Tensor], num_rows: int
    ) -> Float16[np.ndarray, " row dim"]:
        parts = [torch.empty(0, self._clip.config.embed_dim, device=self._device)]
        with torch.no_grad(), self._autocast():
            parts += [encode(batch).float() for batch in batches]
        return torch.cat(parts)[:num_rows].half().cpu().numpy()

    def _batches(self, items: Sequence[Any]) -> Iterator[list[Any]]:
        """Batches of one size; the last is filled up with its first item."""
        for start in range(0, len(items), self._batch_size):
            batch = list(items[start : start + self._batch_size])
            yield batch + [batch[0]] * (self._batch_size - len(batch))

    def _decoded(
        self, pictures: Sequence[bytes], decode: Callable[[bytes], Pixels]
    ) -> Iterator[np.ndarray]:
        if not self._num_decoders:
            yield from (np.stack(list(map(decode, batch))) for batch in self._batches(pictures))
            return
        ahead: deque[list[Future[Pixels]]] = deque()
        with ThreadPoolExecutor(self._num_decoders, thread_name_prefix="decode") as pool:
            for batch in self._batches(pictures):
                ahead.append([pool.submit(decode, picture) for picture in batch])
                if len(ahead) > BATCHES_AHEAD:
                    yield _stacked(ahead.popleft())
            while ahead:
                yield _stacked(ahead.popleft())

    def _moved(self, batch: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(batch)
        if self._device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self._device.type, torch.bfloat16)


def open_clip_square(image: Image.Image, side_px: int) -> Pixels:
    """What open_clip shows its models: the shorter side scaled (bicubic), the centre cut out.

    Both at once: only the part of the picture that is wanted is scaled.
    """
    scaled = [side_px * length // min(image.size) for length in image.size]
    starts = [round((length - side_px) / 2) for length in scaled]
    scales = [length / now for length, now in zip(image.size, scaled, strict=True)]
    left, top = (start * scale for start, scale in zip(starts, scales, strict=True))
    box = (left, top, left + side_px * scales[0], top + side_px * scales[1])
    return np.asarray(image.resize((side_px, side_px), Image.Resampling.BICUBIC, box=box))


def _stacked(futures: Sequence[Future[Pixels]]) -> np.ndarray:
    return np.stack([future.result() for future in futures])


def _precision(device: torch.device) -> str:
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if native else "float32"
