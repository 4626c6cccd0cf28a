"""Model FLOP utilisation of training steps at Karlo's and the paper's sizes, on one GPU.

A step is what the training loop does on a device: bf16 products on float32 weights, compiled
blocks, backward, clipping, fused AdamW, average of the weights. Utilisation is 3 x the forward
operations of torch's counter (Chowdhery et al. 2022, App. B: a backward pass costs two forward
passes; what activation checkpointing computes again does not count) over the device's peak: its
data sheet's dense bf16 rate, or ``--peak-tflops``. Batches double until memory or the rate ends.
Each network runs in a process of its own, frozen CLIP states are random numbers.

``python -m tests.benchmarks.gpu_utilisation``; without a GPU it says "not run" and ends with 0.
``--device cpu --models demo_decoder --peak-tflops 0.1`` tries the benchmark itself.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.gpus import GPUS
from pipeline.models import presets, scales
from pipeline.models.config import DecoderConfig, PriorConfig, UpsamplerConfig
from pipeline.training.device import fixed_arithmetic
from pipeline.training.ema import WeightAverage
from pipeline.training.optim import adamw, masked_step, set_learning_rate
from pipeline.training.parallel import Replicated, lay_out
from tests.synthetic import train_config

AT_LEAST = {"prior": 0.45, "decoder": 0.40, "upsampler": 0.40}
MODELS: dict[str, PriorConfig | DecoderConfig | UpsamplerConfig] = {
    "demo_prior": presets.DEMO_PRIOR,
    "demo_decoder": presets.DEMO_DECODER,
    "karlo_prior": scales.KARLO_PRIOR,
    "karlo_decoder": scales.KARLO_DECODER,
    "karlo_upsampler_64_256": scales.KARLO_UPSAMPLER_64_256,
    "paper_prior": scales.PAPER_PRIOR,
    "paper_decoder": scales.PAPER_DECODER,
    "paper_upsampler_64_256": scales.PAPER_UPSAMPLER_64_256,
    "paper_upsampler_256_1024": scales.PAPER_UPSAMPLER_256_1024,
}
CROPS = 4
"""Upsamplers learn from crops of a quarter of the side (paper §2.1)."""
WARMUP, STEPS = 3, 8


@dataclass(frozen=True)
class Work:
    """A network with one random batch maker and its forward pass."""

    model: nn.Module
    inputs: Callable[[int], dict[str, Tensor]]
    forward: Callable[[nn.Module, dict[str, Tensor]], Tensor]


def main() -> int:
    """Measure each model in a process of its own and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--models", nargs="+", choices=list(MODELS))
    parser.add_argument("--peak-tflops", type=float)
    parser.add_argument("--max-batch", type=int, default=2048)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print(json.dumps({"benchmark": "gpu_utilisation", "result": "not run: no GPU here"}))
        return 0
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments)))
        return 0
    names = arguments.models or [name for name in MODELS if not name.startswith("demo")]
    found = [_in_a_process(name, sys.argv[1:]) for name in names]
    for each in found:
        print(
            f"{each['model']:<26} batch {each['batch']:>5}  {each['samples_per_s']:>9,.1f}"
            f" samples/s  {each['gib']:>6.1f} GiB  utilisation {each['utilisation']:.3f}, "
            f"bar {each['at_least']:g}: {'holds' if each['ok'] else 'MISSED'}",
            file=sys.stderr,
        )
    print(json.dumps(found))
    return 0 if all(each["ok"] for each in found) else 1


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The best batch of one model: samples per second, memory and utilisation."""
    device = torch.device(arguments.device)
    flops = forward_flops(name)
    peak = 1e12 * (arguments.peak_tflops or _peak_tflops())
    best: dict[str, Any] = {"utilisation": 0.0}
    batch = 2 if device.type == "cpu" else 8
    while batch <= arguments.max_batch:
        try:
            rate, gib = _rate(name, batch, device)
        except torch.cuda.OutOfMemoryError:
            break
        used = 3 * flops * rate / peak
        if used < 1.02 * best["utilisation"]:
            break
        best = {"batch": batch, "samples_per_s": rate, "gib": gib, "utilisation": used}
        batch *= 2
    if "batch" not in best:
        raise RuntimeError(f"{name} does not fit on {device} with a batch of {batch}")
    kind = name.split("_")[1]
    return {
        "benchmark": "gpu_utilisation",
        "model": name,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "forward_gflop": flops / 1e9,
        "peak_tflops": peak / 1e12,
        **best,
        "at_least": AT_LEAST[kind],
        "ok": best["utilisation"] >= AT_LEAST[kind],
    }


def forward_flops(name: str) -> int:
    """Operations of one sample's forward pass, its own text encoder included."""
    with torch.device("meta"):
        work = build(name)
        batch = work.inputs(1)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        work.forward(work.model, batch)
    return counter.get_total_flops()


def build(name: str) -> Work:
    """A fresh network on the default device, and how it is fed."""
    config = MODELS[name]
    if isinstance(config, UpsamplerConfig):
        crop, low = config.high_px // CROPS, config.low_px // CROPS
        model = presets.build_upsampler(config)

        def pictures(batch: int) -> dict[str, Tensor]:
            t, small = torch.randint(1000, (batch,)), torch.randn(batch, 3, low, low)
            return {"x": torch.randn(batch, 3, crop, crop), "t": t, "low_res": small}

        return Work(model, pictures, lambda model, b: model(b["x"], b["t"], b["low_res"]))
    is_prior = isinstance(config, PriorConfig)
    model = presets.build_prior(config) if is_prior else presets.build_decoder(config)
    clip = config.clip

    def captioned(batch: int) -> dict[str, Tensor]:
        shape = (clip.embed_dim,) if is_prior else (3, config.image_px, config.image_px)
        found = {"x": torch.randn(batch, *shape), "t": torch.randint(1000, (batch,))}
        found |= {name: torch.randn(batch, clip.embed_dim) for name in ("z_img", "z_txt")}
        if model.text_encoder is None:
            found["states"] = torch.randn(batch, clip.context_length, clip.text_width)
            found["mask"] = torch.ones(batch, clip.context_length, dtype=torch.bool)
        else:  # full captions: their end mark is the last token
            length = model.text_encoder.config.context_length
            found["tokens"] = torch.ones(batch, length, dtype=torch.long)
        return found

    def forward(model: nn.Module, b: dict[str, Tensor]) -> Tensor:
        z_txt, states, mask = b["z_txt"], b.get("states"), b.get("mask")
        if model.text_encoder is not None:
            own, states, mask = model.text_encoder(b["tokens"])
            z_txt = z_txt if is_prior else own
        if is_prior:
            return model(b["x"], b["t"], z_txt, states, mask)
        has_z_img = torch.ones_like(b["t"], dtype=torch.bool)
        return model(b["x"], b["t"], b["z_img"], has_z_img, z_txt, states, mask)

    return Work(model, captioned, forward)


def _rate(name: str, batch: int, device: torch.device) -> tuple[float, float]:
    """Samples per second of training steps, and the peak of memory in GiB (0 on a CPU)."""
    on_gpu = device.type == "cuda"
    config = train_config(precision="bfloat16" if on_gpu else "float32")
    execution = config.execution.model_copy(update={"compile_blocks": on_gpu})
    config = config.model_copy(update={"execution": execution})
    work = build(name)
    with fixed_arithmetic(torch.get_num_threads(), device.type, config.precision):
        layout = lay_out(work.model.train(), config, device.type, 0, 1)
        step = _stepper(layout, work, {k: v.to(device) for k, v in work.inputs(batch).items()})
        for _ in range(WARMUP):
            step()
        _wait(device)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        for _ in range(STEPS):
            step()
        _wait(device)
    gib = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0
    return STEPS * batch / (time.perf_counter() - started), gib


def _stepper(layout: Replicated, work: Work, batch: dict[str, Tensor]) -> Callable[[], None]:
    optimizer = adamw(layout.model, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    set_learning_rate(optimizer, 1e-5)
    average = WeightAverage(layout.model, 0.9999)
    none_bad = torch.zeros((), device=batch["t"].device)
    steps = iter(range(sys.maxsize))

    def step() -> None:
        output = layout.compute(work.forward, batch)
        F.mse_loss(output.float(), torch.zeros_like(output, dtype=torch.float32)).backward()
        _, norm = layout.exchange(layout.gradients(), none_bad)
        masked_step(optimizer, norm, none_bad, 1.0)
        optimizer.zero_grad(set_to_none=True)
        average.update(next(steps))

    return step


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _peak_tflops() -> float:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    for gpu in GPUS.values():
        if gpu.name in name.lower():
            return gpu.bf16_flops / 1e12
    raise SystemExit(f"no peak is known of {name}: give --peak-tflops")


def _in_a_process(name: str, options: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.gpu_utilisation", *options, "--one", name]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(told.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
