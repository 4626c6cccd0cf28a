"""Decoder: image embedding and caption → small picture.

Dimension names: ``batch``; ``px`` (side of the picture); ``dim`` (joint embedding); ``token``
(caption positions). Source: Ramesh et al. 2022 (unCLIP) §2.1: z_img is projected into the timestep
embedding and into 4 extra context tokens beside the caption's. Captions come through the frozen
CLIP text encoder, and z_txt joins the timestep embedding (as in Karlo); or through a transformer of
the decoder's own, whose state at the end mark joins it (GLIDE, the paper).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pipeline.models.config import DecoderConfig, OwnText
from pipeline.models.layers import LayerNorm32
from pipeline.models.text import OwnTextEncoder
from pipeline.models.unet import UNet


class Decoder(nn.Module):
    """CLIP-conditioned U-Net.

    Raw embeddings are whitened with stored statistics before the projections; an exporter folds
    this into them. Without an image embedding a learned null vector (zeros at first) stands in;
    without a caption the empty caption's tokens are given.
    """

    z_mean: Tensor
    z_std: Tensor

    def __init__(self, config: DecoderConfig) -> None:
        """A fresh decoder; whitening is the identity until it is set."""
        super().__init__()
        clip, text, emb_width = config.clip, config.text, 4 * config.unet.channels
        own = isinstance(text, OwnText)
        self.config = config
        self.text_encoder = OwnTextEncoder(text) if own else None
        out_channels = 6 if config.learned_variance else 3
        self.unet = UNet(3, out_channels, config.unet, config.context_width)
        self.z_img_to_emb = nn.Linear(clip.embed_dim, emb_width)
        self.z_txt_to_emb = nn.Linear(text.width if own else clip.embed_dim, emb_width)
        self.z_img_to_context = nn.Linear(
            clip.embed_dim, config.num_image_tokens * config.context_width
        )
        text_width = text.width if own else clip.text_width
        self.text_proj = nn.Linear(text_width, config.context_width)
        self.text_norm = LayerNorm32(config.context_width)
        self.null_z = nn.Parameter(torch.zeros(clip.embed_dim))
        self.register_buffer("z_mean", torch.zeros(clip.embed_dim))
        self.register_buffer("z_std", torch.ones(clip.embed_dim))

    def forward(
        self,
        x_t: Float[Tensor, " batch 3 px px"],
        t: Int[Tensor, " batch"],
        z_img: Float[Tensor, " batch dim"],
        has_z_img: Bool[Tensor, " batch"],
        z_txt: Float[Tensor, " batch text_dim"],
        text_states: Float[Tensor, " batch token text_width"],
        text_mask: Bool[Tensor, " batch token"],
    ) -> Float[Tensor, " batch out_channel px px"]:
        """Predict from a noisy picture.

        Args:
            x_t: Noisy picture in model space ([-1, 1] when clean).
            t: Diffusion steps.
            z_img: Raw image embeddings; any values where ``has_z_img`` is False.
            has_z_img: False puts the null vector in the embedding's place.
            z_txt: Raw text embeddings, or the own encoder's states at the end marks.
            text_states: States of CLIP's text encoder, or of the decoder's own where it has one;
                may be cut behind the longest caption.
            text_mask: True up to each caption's end mark.
        """
        whitened = (z_img - self.z_mean) / self.z_std
        z = torch.where(has_z_img[:, None], whitened, self.null_z)
        emb = self.z_img_to_emb(z) + self.z_txt_to_emb(z_txt)
        image_tokens = self.z_img_to_context(z).unflatten(1, (self.config.num_image_tokens, -1))
        context = torch.cat([image_tokens, self.text_norm(self.text_proj(text_states))], dim=1)
        always = text_mask.new_ones(len(x_t), self.config.num_image_tokens)
        return self.unet(x_t, t, emb, context, torch.cat([always, text_mask], dim=1))

    def set_statistics(self, mean: Float[Tensor, " dim"], std: Float[Tensor, " dim"]) -> None:
        """Store the whitening; both become part of the weights."""
        self.z_mean.copy_(mean)
        self.z_std.copy_(std)
