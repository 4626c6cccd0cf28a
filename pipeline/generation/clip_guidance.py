"""What the run's CLIP thinks of a picture and its caption, as a score that can be climbed.

Dimension names: ``batch`` (pictures), ``side`` (pixels), ``small`` (pixels that CLIP reads).
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from pipeline.diffusion.guidance import Score
from pipeline.generation.text import TextConditions
from pipeline.models.clip import ClipModel


def as_clip_reads(
    pictures: Float[Tensor, " batch 3 side side"], side_px: int
) -> Float[Tensor, " batch 3 small small"]:
    """Pictures in [-1, 1] of another side, differentiable.

    An even shrink is a box mean, as the stored views are shrunk in training; else bicubic.
    """
    if pictures.shape[-1] % side_px == 0:
        return functional.adaptive_avg_pool2d(pictures, side_px)
    resized = functional.interpolate(
        pictures, (side_px, side_px), mode="bicubic", antialias=True, align_corners=False
    )
    return resized.clamp(-1, 1)


def caption_score(clip: ClipModel, captions: TextConditions) -> Score:
    r"""CLIP's logit of each picture with its caption; 0 where the caption is empty.

    .. math:: \log p(y \mid x) = \tau \cos(z_{img}(x), z_{txt}(y)) + \text{const}

    with CLIP's learnt temperature (Radford et al. 2021, Fig. 3).

    Args:
        clip: Both encoders; not trained on noisy pictures, so it is to be shown clean ones.
        captions: One row per picture.
    """
    side_px = clip.config.vision.image_px
    with torch.inference_mode(mode=False):  # what gradients pass must not be of inference mode
        has_text = [bool(text.strip()) for text in captions.texts]
        wanted = functional.normalize(captions.z_txt.clone(), dim=-1)
        wanted = wanted * wanted.new_tensor(has_text)[:, None]

    def score(pictures: Float[Tensor, " batch 3 side side"]) -> Float[Tensor, " batch"]:
        z_img = functional.normalize(clip.encode_image(as_clip_reads(pictures, side_px)), dim=-1)
        return clip.logit_scale.exp() * (z_img * wanted).sum(dim=-1)

    return score
