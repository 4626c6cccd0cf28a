"""What is done to pictures: encode them as (z_img, x_T), change one of both, decode again.

Dimension names: ``batch`` (pictures), ``dim`` (joint embedding), ``side`` (pixels of the decoder),
``larger`` (pixels of given or final pictures). Pictures are in [-1, 1]. The decoder never sees a
caption here, except for inpainting. Source: Ramesh et al. 2022 (unCLIP) §3 and §4.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32
from numpy import ndarray
from torch import Tensor
from torch.nn import functional

from pipeline.diffusion.sampling import (
    Denoiser,
    NoiseSource,
    clip_to_unit,
    ddim_invert,
    ddim_sample,
    no_threshold,
    repaint_sample,
)
from pipeline.errors import ConfigError
from pipeline.generation.unclip import UnCLIP
from pipeline.generation.upsampling import checked_steps, noise_on, picture_seeds, upsample_once
from pipeline.manipulation.embeddings import on_components, slerp, towards_text

Drawn = dict[str, Float[Tensor, " batch 3 side side"]]
"""Small pictures by the name of how they were made, in the order in which they are shown."""
NUM_STEPS = 100
"""Denoising steps of an inversion and of the way back; what is lost falls with their number."""

FIRST_STD = 0.1
"""Noise with which the inversion of a decoder that predicts x_start begins (``ddim_invert``)."""


@dataclass(frozen=True)
class Latents:
    """The bipartite representation of pictures (paper §3)."""

    z_img: Float[Tensor, " batch dim"]
    """What CLIP sees of them; raw."""
    x_end: Float[Tensor, " batch 3 side side"]
    """x_T: the rest, by DDIM inversion; about standard normal."""
    indices: tuple[int, ...]
    """Number of each picture, which keys what is drawn for it."""


class Manipulator:
    """A trained stack that changes pictures."""

    def __init__(self, unclip: UnCLIP, *, num_steps: int = NUM_STEPS, seed: int = 0) -> None:
        """Stand on a stack; of its decoder's settings the guidance scales hold.

        Args:
            unclip: Any trained stack whose decoder reads z_img.
            num_steps: Denoising steps of an inversion, and as many of every way back.
            seed: Seed of all draws.

        Raises:
            ConfigError: The decoder reads no z_img, or was trained with fewer steps.
        """
        decoder = unclip.stack.decoder.config
        if decoder.embedding != "z_img":
            raise ConfigError(
                f"the decoder reads {decoder.embedding}, no z_img, so that nothing of a picture "
                "can be changed by it; use a run whose decoder has embedding z_img"
            )
        self.unclip, self.seed = unclip, seed
        self._process = unclip.stack.decoder_process
        self._steps = checked_steps(num_steps, self._process)
        self._device = unclip.stack.decoder.null_z.device
        self.decoder_px = decoder.image_px

    @property
    def source_px(self) -> int:
        """Side in which pictures are given: the final side, and no less than CLIP reads."""
        least = max(self.unclip.image_px, self.unclip.stack.clip.config.vision.image_px)
        return -(-least // self.decoder_px) * self.decoder_px

    @torch.inference_mode()
    def encode(
        self, pictures: Float[Tensor, " batch 3 larger larger"], indices: Sequence[int]
    ) -> Latents:
        """Pictures of ``source_px`` → what CLIP sees of them, and the noise that is the rest.

        Args:
            pictures: In [-1, 1].
            indices: Number of each picture.
        """
        given = pictures.to(self._device)
        z_img = self.unclip.encode_pictures(given)
        small = functional.adaptive_avg_pool2d(given, self.decoder_px)
        x_end = ddim_invert(
            self._denoiser(z_img),
            self._process,
            small,
            self._steps,
            first_std=FIRST_STD if self._process.prediction == "x_start" else 0.0,
            noise=self._noise("inversion", indices)(0),
        )
        return Latents(z_img, x_end, tuple(indices))

    def reconstruction(self, latents: Latents) -> Float[Tensor, " batch 3 side side"]:
        """The pictures again: DDIM with eta 0 (paper §3)."""
        return self._draw(latents.z_img, _at(latents.x_end))

    def variations(
        self, latents: Latents, num: int, eta: float = 1.0, *, fresh: bool = False
    ) -> Drawn:
        """Other pictures of what CLIP sees (paper §3.1).

        Args:
            latents: Of the pictures.
            num: Variations of each.
            eta: DDIM's share of fresh noise on the way, 0 to 1.
            fresh: Start from fresh noise too, which keeps z_img alone; on the way it is the same.
        """
        found = {}
        for number in range(1, num + 1):
            noise = self._noise(f"variation/{number}", latents.indices)
            start = noise if fresh else _at(latents.x_end, noise)
            found[f"variation {number}"] = self._draw(latents.z_img, start, eta)
        return found

    def interpolation(
        self, first: Latents, second: Latents, thetas: Sequence[float], *, fixed_noise: bool = False
    ) -> Drawn:
        """From each picture of one list to the same row of another (paper §3.2).

        Args:
            first: Reconstructed at theta 0.
            second: Reconstructed at theta 1.
            thetas: Shares of the way, 0 to 1.
            fixed_noise: One noise all the way, as in the paper's Figure 4, in the place of the
                pictures' own, slerped; then the ends are no reconstructions.
        """
        fixed = self._noise("interpolation", first.indices)(0)
        return {
            f"theta {theta:.2f}": self._draw(
                slerp(first.z_img, second.z_img, theta),
                _at(fixed if fixed_noise else slerp(first.x_end, second.x_end, theta)),
            )
            for theta in thetas
        }

    @torch.inference_mode()
    def text_difference(
        self,
        latents: Latents,
        base_texts: Sequence[str],
        texts: Sequence[str],
        thetas: Sequence[float],
    ) -> Drawn:
        """Pictures changed as one caption differs from another, their noise kept (paper §3.3).

        Args:
            latents: Of the pictures.
            base_texts: What each is; may be empty.
            texts: What each shall become.
            thetas: Shares of the way from z_img to the difference; 0 reconstructs.
        """
        z_txt, base = (self.unclip.encode(each).z_txt for each in (texts, base_texts))
        return {
            f"theta {theta:.2f}": self._draw(
                towards_text(latents.z_img, z_txt, base, theta), _at(latents.x_end)
            )
            for theta in thetas
        }

    def principal_components(
        self,
        latents: Latents,
        pca: Mapping[str, Float32[ndarray, " ..."]],
        dimensions: Sequence[int],
    ) -> Drawn:
        """What the first principal components of z_img show, drawn from one noise (paper §4).

        Args:
            latents: Of the pictures; their noise is not used.
            pca: ``mean`` and ``components``, as the embed stage stores them.
            dimensions: Numbers of components.
        """
        mean, components = (
            torch.from_numpy(pca[name]).to(latents.z_img) for name in ("mean", "components")
        )
        noise = self._noise("principal_components", latents.indices)
        return {
            f"{num} dimensions": self._draw(
                on_components(latents.z_img, mean, components, num), noise
            )
            for num in dimensions
        }

    @torch.inference_mode()
    def inpainting(
        self,
        pictures: Float[Tensor, " batch 3 larger larger"],
        is_known: Bool[Tensor, " batch 1 larger larger"],
        texts: Sequence[str],
        indices: Sequence[int],
        *,
        num_visits: int = 5,
    ) -> Float[Tensor, " batch 3 final final"]:
        """Paint a region anew; final pictures, unchanged where they are known.

        Decoder: RePaint. Upsamplers: each predicted clean picture is told its known pixels.

        Args:
            pictures: Of ``source_px``.
            is_known: False where shall be painted.
            texts: What each picture shall show; where empty, its own z_img stands in, which
                also saw the region that is painted.
            indices: Number of each picture.
            num_visits: How often each of the decoder's moves is made, again and again renoised.
        """
        given, is_known = pictures.to(self._device), is_known.to(self._device)
        z_img = self._wanted(given, texts, indices)
        known, mask = _shrunk(given, is_known, self.decoder_px)
        made = repaint_sample(
            self._denoiser(z_img, texts),
            self._process,
            self._noise("inpainting", indices),
            self._steps,
            known,
            mask,
            num_visits=num_visits,
        ).clamp(-1, 1)
        for level, settings in enumerate(self.unclip.sampling.upsamplers):
            model, process = self.unclip.stack.upsamplers[level]
            known, mask = _shrunk(given, is_known, model.config.high_px)

            def told(x_start: Tensor, known: Tensor = known, mask: Tensor = mask) -> Tensor:
                return torch.where(mask, known, clip_to_unit(x_start))

            seeds = picture_seeds(self.seed, f"upsampler/{level}", indices)
            made = upsample_once(model, process, made, seeds, settings, threshold=told)
            made = torch.where(mask, known, made)
        return made

    @torch.inference_mode()
    def final(
        self, pictures: Float[Tensor, " batch 3 side side"], indices: Sequence[int]
    ) -> Float[Tensor, " batch 3 final final"]:
        """Small pictures through the upsamplers; a row's noise is the same however it was made."""
        return self.unclip.upsample(pictures, self.seed, indices)

    def _wanted(
        self, pictures: Tensor, texts: Sequence[str], indices: Sequence[int]
    ) -> Float[Tensor, " batch dim"]:
        z_img = self.unclip.encode_pictures(pictures)
        if not any(texts):
            return z_img
        of_texts = self.unclip.sample_prior(texts, self.seed, indices)
        has_text = torch.tensor([bool(text) for text in texts], device=z_img.device)
        return torch.where(has_text[:, None], of_texts, z_img)

    def _denoiser(
        self, z_img: Float[Tensor, " batch dim"], texts: Sequence[str] | None = None
    ) -> Denoiser:
        """The decoder with embeddings and, by default, empty captions bound; its mean alone."""
        bound = self.unclip.denoiser(z_img, [""] * len(z_img) if texts is None else texts)
        return lambda x_t, t: bound(x_t, t)[:, : x_t.shape[1]]

    @torch.inference_mode()
    def _draw(
        self, z_img: Float[Tensor, " batch dim"], noise: NoiseSource, eta: float = 0.0
    ) -> Float[Tensor, " batch 3 side side"]:
        # A thresholded step cannot be undone, and inversion did without.
        return ddim_sample(
            self._denoiser(z_img), self._process, noise, self._steps, eta=eta,
            threshold=no_threshold,
        ).clamp(-1, 1)  # fmt: skip

    def _noise(self, purpose: str, indices: Sequence[int]) -> NoiseSource:
        seeds = picture_seeds(self.seed, f"manipulation/{purpose}", indices)
        return noise_on(self._device, seeds, (3, self.decoder_px, self.decoder_px))


def _at(x_end: Tensor, then: NoiseSource | None = None) -> NoiseSource:
    """Noise that starts with x_T, and goes on as another."""
    return lambda step: x_end if then is None or step == 0 else then(step)


def _shrunk(
    pictures: Float[Tensor, " batch 3 larger larger"],
    is_known: Bool[Tensor, " batch 1 larger larger"],
    side_px: int,
) -> tuple[Float[Tensor, " batch 3 side side"], Bool[Tensor, " batch 1 side side"]]:
    """Box means, and which of them hold known pixels alone."""
    share = functional.adaptive_avg_pool2d(is_known.float(), side_px)
    return functional.adaptive_avg_pool2d(pictures, side_px), share == 1
