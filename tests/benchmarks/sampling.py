"""What sampling costs beside its network evaluations: at most 1.05 x as many bare ones.

Ours is what `UnCLIP` does for a batch of captions: reading them, drawing noise, guiding, moving
from step to step. The peer calls the same network with the inputs of the same calls, which were
recorded. Weights are random. The demo's networks are the hardest case: hardly anything is smaller.
On a CPU the CPU time of this process is what counts, so that other work on the machine does not.

``python -m tests.benchmarks.sampling``; ``--device cuda`` takes Karlo's sizes.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from pipeline.diffusion.config import DiffusionConfig
from pipeline.diffusion.sampling import Process
from pipeline.generation.config import Sampling
from pipeline.generation.priors import DiffusionSampler
from pipeline.generation.unclip import UnCLIP
from pipeline.generation.weights import Stack
from pipeline.memory import keep_freed_memory
from pipeline.models import presets, scales
from pipeline.models.config import ClipConfig, DecoderConfig, PriorConfig, UpsamplerConfig
from tests.benchmarks.paired import compare, finish

AT_LEAST = 1 / 1.05
CAPTION = "a small red circle on a blue background, seen from above"
SAMPLERS = ("ddim", "ddpm", "dpm_solver")
PROCESS = Process.of(DiffusionConfig(prediction="x_start"))


@dataclass(frozen=True)
class Size:
    """Networks that belong together, and how they are sampled here."""

    clip: ClipConfig
    prior: PriorConfig
    decoder: DecoderConfig
    upsampler: UpsamplerConfig
    batch: int
    prior_steps: int
    decoder_steps: int
    upsampler_steps: int


def middle() -> Size:
    """A decoder of 28 M parameters for 64 px and a prior of 27 M."""
    text = presets.DEMO_CLIP.text.model_copy(update={"width": 512, "layers": 12, "heads": 8})
    clip = presets.DEMO_CLIP.model_copy(update={"embed_dim": 512, "text": text})
    shape = presets.clip_shape(clip)
    unet = scales.KARLO_DECODER.unet.model_copy(update={"channels": 64, "res_blocks": 2})
    changes = {"clip": shape, "unet": unet, "context_width": 256}
    decoder = scales.KARLO_DECODER.model_copy(update=changes)
    prior = PriorConfig(clip=shape, width=512, layers=8)
    return Size(clip, prior, decoder, presets.DEMO_UPSAMPLER_64_256, 1, 64, 8, 27)


SIZES = {
    "demo": lambda: Size(
        presets.DEMO_CLIP,
        presets.DEMO_PRIOR,
        presets.DEMO_DECODER,
        presets.DEMO_UPSAMPLER_16_64,
        *(16, 64, 30, 5),
    ),
    "middle": middle,
    "karlo": lambda: Size(
        scales.KARLO_CLIP,
        scales.KARLO_PRIOR,
        scales.KARLO_DECODER,
        scales.KARLO_UPSAMPLER_64_256,
        *(16, 64, 25, 7),
    ),
}


def main() -> int:
    """Compare every model of every size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as generation does
    names = arguments.sizes or {"cpu": ["demo", "middle"], "cuda": ["karlo"]}[arguments.device]
    device = torch.device(arguments.device)
    return finish([found for name in names for found in _compare_all(name, device)])


def _compare_all(name: str, device: torch.device) -> Iterator[dict]:
    size = SIZES[name]()
    torch.manual_seed(0)
    with device:
        prior = DiffusionSampler(presets.build_prior(size.prior).eval(), PROCESS)
        decoder = presets.build_decoder(size.decoder).eval()
        upsampler = presets.build_upsampler(size.upsampler).eval()
        clip = presets.build_clip(size.clip).eval()
    stack = Stack(clip, prior, decoder, PROCESS, ((upsampler, PROCESS),), {})
    texts, pictures = [CAPTION] * size.batch, range(size.batch)
    z_img = torch.randn(size.batch, size.clip.embed_dim, device=device)
    px = size.decoder.image_px
    small = torch.randn(size.batch, 3, px, px, device=device).clamp(-1, 1)
    for sampler in SAMPLERS if name == "demo" else SAMPLERS[:1]:
        made = UnCLIP(stack, _sampling(size, sampler))
        run = lambda made=made: made.decode(z_img, texts, 0, pictures)  # noqa: E731
        yield _compare(f"decoder, {name}, {sampler}", decoder, run, device)
    yield _compare(
        f"prior, {name}", prior.network, lambda: made.sample_prior(texts, 0, pictures), device
    )
    yield _compare(
        f"upsampler, {name}", upsampler, lambda: made.upsample(small, 0, pictures), device
    )


def _sampling(size: Size, sampler: str) -> Sampling:
    return Sampling.model_validate(
        {
            "prior": {"num_steps": size.prior_steps, "num_candidates": 1},
            "decoder": {"num_steps": size.decoder_steps, "sampler": sampler},
            "upsamplers": [{"num_steps": size.upsampler_steps}],
        }
    )


def _compare(
    name: str, network: nn.Module, sample: Callable[[], object], device: torch.device
) -> dict:
    calls: list[tuple] = []
    hook = network.register_forward_pre_hook(lambda _, inputs: calls.append(inputs))
    sample()
    hook.remove()

    @torch.inference_mode()
    def bare() -> None:
        for inputs in calls:
            network(*inputs)

    def rate(run: Callable[[], object]) -> float:
        clock = time.process_time if device.type == "cpu" else time.perf_counter
        started = clock()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return len(calls) / (clock() - started)

    found = compare(
        name,
        lambda: rate(sample),
        lambda: rate(bare),
        unit="evaluations/CPU-s" if device.type == "cpu" else "evaluations/s",
        at_least=AT_LEAST,
        peer_named={
            "command": "bare calls in tests/benchmarks/sampling.py",
            "version": torch.__version__,
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "evaluations": len(calls),
            "input": f"{len(calls[0][0])} rows, as recorded",
        },
    )
    return found | {"overhead_ms_per_evaluation": 1000 * (1 / found["ours"] - 1 / found["peer"])}


if __name__ == "__main__":
    sys.exit(main())
