"""Text → 64 px → 256 px by one library, in an interpreter of its own.

``python generation_side.py '<settings>'`` loads the stack, draws once, says that it is ready, and
per line of its standard input draws the batch as often as the line says and answers with seconds
and the peak of memory above what the process held before the stack was there.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

from tests.benchmarks.train_step_side import _bytes_now, _forget_peak, _peak_bytes


def main(settings: dict[str, Any]) -> None:
    """Answer until the input ends."""
    torch.set_num_threads(settings["threads"])
    device = torch.device(settings["device"])
    load = SIDES[settings["side"]]()  # imports, which are not what is compared
    before = _bytes_now(device)
    draw = load(settings, device)
    draw()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        _forget_peak(device)
        started, cpu_started = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            pictures = draw()
        assert len(pictures) == len(settings["prompts"])
        assert pictures[0].size == (256, 256)
        told = {
            "seconds": time.perf_counter() - started,
            "cpu_s": time.process_time() - cpu_started,
            "bytes": _peak_bytes(device) - before,
        }
        print(json.dumps(told), flush=True)


Draw = Callable[[], list]
Load = Callable[[dict[str, Any], torch.device], Draw]


def ours() -> Load:
    """`UnCLIP` with the sampling that is told."""
    from pipeline.generation.config import Sampling
    from pipeline.generation.run_stages import RunStages
    from pipeline.generation.unclip import UnCLIP

    def load(settings: dict[str, Any], device: torch.device) -> Draw:
        sampling = Sampling.model_validate(settings["sampling"])
        stages = RunStages.read(settings["run"])
        unclip = UnCLIP.from_stages(stages, sampling, device=str(device))
        return lambda: unclip(settings["prompts"], seed=1, batch_size=settings["batch"])

    return load


def peer() -> Load:
    """`UnCLIPPipeline` on the exported folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        from diffusers import UnCLIPPipeline

    def load(settings: dict[str, Any], device: torch.device) -> Draw:
        pipeline = UnCLIPPipeline.from_pretrained(settings["exported"]).to(device)
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator(device)
        prompts, size = settings["prompts"], settings["batch"]
        how = {
            "prior_num_inference_steps": settings["prior_steps"],
            "decoder_num_inference_steps": settings["decoder_steps"],
            "super_res_num_inference_steps": settings["upsampler_steps"],
            "prior_guidance_scale": settings["prior_scale"],
            "decoder_guidance_scale": settings["decoder_scale"],
        }

        def draw() -> list:
            generator.manual_seed(1)
            parts = [prompts[start : start + size] for start in range(0, len(prompts), size)]
            return [x for part in parts for x in pipeline(part, generator=generator, **how).images]

        return draw

    return load


SIDES = {"ours": ours, "diffusers": peer}

if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
