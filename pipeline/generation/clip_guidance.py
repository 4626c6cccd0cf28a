"""What the run's CLIP thinks of a picture and its caption, as a score that can be climbed.

Dimension names: ``batch`` (pictures), ``side`` (pixels).
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from pipeline.diffusion.guidance import Score
from pipeline.generation.text import TextConditions
from pipeline.models.clip import ClipModel
from pipeline.models.pictures import as_clip_reads


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
