"""Loads this folder with diffusers of any version; no other file of the project is needed.

``from_pretrained`` finds the class of ``text_proj`` only where ``model_index.json`` names the place
that it has in the installed version; here every component is loaded by itself.

    from load import load_pipeline, load_variation_pipeline
    picture = load_pipeline()("a red circle").images[0]
    others = load_variation_pipeline()(picture).images
"""

import json
from pathlib import Path

import torch
from diffusers import (
    DDIMScheduler,
    PriorTransformer,
    UnCLIPImageVariationPipeline,
    UnCLIPPipeline,
    UnCLIPScheduler,
    UNet2DConditionModel,
    UNet2DModel,
)
from torch.nn.functional import interpolate
from transformers import (
    CLIPImageProcessor,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

try:
    from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
except ImportError:  # before 0.38
    from diffusers.pipelines.unclip.text_proj import UnCLIPTextProjModel

HERE = Path(__file__).parent
SHARED = {
    "decoder": UNet2DConditionModel,
    "text_encoder": CLIPTextModelWithProjection,
    "tokenizer": CLIPTokenizer,
    "text_proj": UnCLIPTextProjModel,
    "super_res_first": UNet2DModel,
    "super_res_last": UNet2DModel,
    "decoder_scheduler": UnCLIPScheduler,
    "super_res_scheduler": UnCLIPScheduler,
}


def load_pipeline(folder: str | Path = HERE) -> UnCLIPPipeline:
    """Texts to pictures."""
    more = {"prior": PriorTransformer, "prior_scheduler": UnCLIPScheduler}
    return UnCLIPPipeline(**_components(folder, SHARED | more))


def load_variation_pipeline(folder: str | Path = HERE) -> UnCLIPImageVariationPipeline:
    """Pictures to pictures that mean the same."""
    more = {"feature_extractor": CLIPImageProcessor, "image_encoder": CLIPVisionModelWithProjection}
    return UnCLIPImageVariationPipeline(**_components(folder, SHARED | more))


@torch.no_grad()
def enlarge(
    pictures: torch.Tensor,
    name: str,
    num_steps: int = 15,
    generator: torch.Generator | None = None,
    folder: str | Path = HERE,
) -> torch.Tensor:
    """Run a further upsampler, which the pipelines have no place for, by DDIM.

    Args:
        pictures: Batch of pictures in [-1, 1], as the pipelines give them with
            ``output_type="np"`` after ``2 x - 1`` and a permutation to channels first.
        name: Its folder, such as ``upsampler_256_1024``.
        num_steps: Denoising steps.
        generator: Source of the noise.
        folder: Where this file lies.
    """
    unet = UNet2DModel.from_pretrained(Path(folder) / name, subfolder="unet").to(pictures.device)
    scheduler = DDIMScheduler.from_pretrained(Path(folder) / name, subfolder="scheduler")
    side = unet.config.sample_size
    shape = (*pictures.shape[:2], side, side)
    x_t = torch.randn(shape, generator=generator, device=pictures.device)
    mode = json.loads((Path(folder) / "export.json").read_text())["upsamplers"][name]["resize"]
    low_res = interpolate(
        pictures, (side, side), mode=mode, align_corners=False, antialias=mode == "bicubic"
    )
    scheduler.set_timesteps(num_steps)
    for t in scheduler.timesteps:
        output = unet(torch.cat([x_t, low_res], dim=1), t).sample
        x_t = scheduler.step(output, t, x_t).prev_sample
    return x_t.clamp(-1, 1)


def _components(folder: str | Path, classes: dict) -> dict:
    return {name: kind.from_pretrained(Path(folder) / name) for name, kind in classes.items()}
