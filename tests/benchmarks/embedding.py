"""Embedding against the bare model: ViT-B/32 at 224 px, random weights, on the same device.

The peer's pictures lie in memory as float tensors, and its batch is the best of a grid that is
measured first. Ours takes a shard's way but for decoding: bytes into batches, padding, onto the
device, forward, float16 in memory. What decoding costs is told apart, and what a whole shard takes
with threads that decode ahead. On a CPU the CPU time of this process is what counts, so that other
work on the machine does not. ``python -m tests.benchmarks.embedding``
"""

import argparse
import hashlib
import io
import sys
import time

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.draws import generator
from pipeline.models.clip import ClipModel
from pipeline.models.config import ClipConfig, TextTowerConfig, VisionTowerConfig
from pipeline.shards.clip_encoder import ClipEncoder, open_clip_square
from tests.benchmarks.paired import compare, finish

VIT_B_32 = ClipConfig(
    embed_dim=512,
    vision=VisionTowerConfig(image_px=224, patch_px=32, width=768, layers=12, heads=12),
    text=TextTowerConfig(width=512, layers=12, heads=8),
)
BATCHES = {"cpu": (4, 8, 16, 32), "cuda": (128, 256, 512, 1024)}
NUM_PAIRS = {"cpu": 45, "cuda": 5}
AT_LEAST = 0.95


def main() -> int:
    """Measure on the GPU where there is one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    clip = ClipModel(VIT_B_32).eval().requires_grad_(False).to(device)
    batches = BATCHES[device.type]
    num = batches[-1] if device.type == "cpu" else 8 * batches[-1]
    pictures, decoded = _pictures(num)
    normalised = _normalised(decoded, device)
    precision = ClipEncoder(clip, 1, device).precision
    rates = {size: _bare_rate(clip, normalised, size, precision) for size in batches}
    for size, rate in rates.items():
        print(f"bare model, batch {size}: {rate:,.1f} pictures/s", file=sys.stderr)
    best = max(rates, key=lambda size: rates[size])
    if device.type == "cpu":  # short sides in many pairs: what else runs here changes by seconds
        num, pictures, decoded, normalised = (
            best,
            pictures[:best],
            decoded[:best],
            normalised[:best],
        )
    encoder = ClipEncoder(clip, best, device)
    names = [str(number).encode() for number in range(num)]
    found = compare(
        "embedding",
        lambda: num / _seconds(lambda: encoder.images(names, lambda name: decoded[int(name)])),
        lambda: _bare_rate(clip, normalised, best, precision),
        unit="pictures/s" if device.type == "cuda" else "pictures/CPU-s",
        at_least=AT_LEAST,
        num_pairs=NUM_PAIRS[device.type],
        peer_named={
            "command": "bare encode_image in tests/benchmarks/embedding.py",
            "version": torch.__version__,
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "precision": precision,
            "threads": arguments.threads,
            "batch": best,
            "pictures": num,
            "input_sha256": hashlib.sha256(b"".join(pictures)).hexdigest(),
        },
        decode_ms=1000 * _seconds(lambda: [_decode(each) for each in pictures]) / num,
        with_decoding=num / _seconds(lambda: _ahead(clip, best, device).images(pictures, _decode)),
    )
    return finish([found])


def _pictures(num: int) -> tuple[list[bytes], np.ndarray]:
    """JPEGs of 256 px, as views hold them, and the squares that CLIP sees."""
    distinct = []
    for number in range(min(num, 256)):
        coarse = generator(0, "picture", number).integers(0, 256, (24, 24, 3), np.uint8)
        image = Image.fromarray(coarse).resize((256, 256), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=95, subsampling=0)
        distinct.append(buffer.getvalue())
    chosen = [distinct[number % len(distinct)] for number in range(num)]
    squares = [_decode(encoded) for encoded in distinct]
    return chosen, np.stack([squares[number % len(squares)] for number in range(num)])


def _decode(encoded: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(encoded)) as image:
        return open_clip_square(image.convert("RGB"), VIT_B_32.vision.image_px)


def _ahead(clip: ClipModel, batch: int, device: torch.device) -> ClipEncoder:
    return ClipEncoder(clip, batch, device, num_decoders=8 if device.type == "cuda" else 1)


def _normalised(decoded: np.ndarray, device: torch.device) -> Tensor:
    """In [-1, 1], as ``encode_image`` takes it; on the device already."""
    whole = torch.from_numpy(decoded).to(device).permute(0, 3, 1, 2)
    return (whole.float() / 127.5 - 1).contiguous()


def _bare_rate(clip: ClipModel, images: Tensor, size: int, precision: str) -> float:
    def run() -> None:
        with (
            torch.no_grad(),
            torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16"),
        ):
            for start in range(0, len(images), size):
                clip.encode_image(images[start : start + size])

    return len(images) / _seconds(run)


def _seconds(run) -> float:
    """Time on the device: of a GPU on the wall, of CPUs what this process used."""
    if not torch.cuda.is_available():
        started = time.process_time()
        run()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
