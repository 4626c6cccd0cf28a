"""The public `UnCLIP`: text → z_img → small picture → large picture.

Dimension names: ``batch`` (pictures), ``dim`` (joint embedding), ``token`` (caption), ``side``
(pixels). Every draw is a function of (seed, model, picture's number), so a picture does not depend
on the batch it is made in beyond float rounding. Source: Ramesh et al. 2022 (unCLIP) §2.
"""

from collections.abc import Sequence
from typing import overload

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from pipeline.diffusion.guidance import climbing, guided
from pipeline.diffusion.sampling import (
    Denoiser,
    NoiseSource,
    clip_to_unit,
    ddim_sample,
    ddpm_sample,
    dpm_solver_sample,
    dynamic_threshold,
)
from pipeline.errors import ConfigError
from pipeline.generation import prompts as prompt_rules
from pipeline.generation.clip_guidance import caption_score
from pipeline.generation.config import Sampling
from pipeline.generation.pictures import to_images
from pipeline.generation.priors import draw_z_img
from pipeline.generation.run_stages import RunStages, read_sampling
from pipeline.generation.text import TextConditions, clip_conditions, decoder_conditions
from pipeline.generation.upsampling import checked_steps, noise_on, picture_seeds, upsample_once
from pipeline.generation.weights import Stack, load_stack
from pipeline.models.pictures import as_clip_reads

MAX_PICTURES = 4096
"""Pictures of one call; more are the business of ``generation/batch.py``."""


class UnCLIP:
    """A trained stack that makes pictures from text."""

    def __init__(self, stack: Stack, sampling: Sampling) -> None:
        """Join networks with a way of sampling.

        Raises:
            ConfigError: More upsamplers are to be sampled than the stack has.
        """
        if len(sampling.upsamplers) > len(stack.upsamplers):
            raise ConfigError(
                f"upsamplers={len(sampling.upsamplers)} entries, the run trained "
                f"{len(stack.upsamplers)}; give at most one entry per trained upsampler"
            )
        self.stack = stack
        self.sampling = sampling
        self._device = stack.decoder.null_z.device
        self._embedding = stack.decoder.config.embedding

    @classmethod
    def from_run(cls, uri: str, *, device: str = "auto") -> "UnCLIP":
        """Load the stack of a finished run.

        Args:
            uri: The run's ``output_dir``.
            device: ``cpu``, ``cuda``, or ``auto`` for CUDA where there is one.

        Raises:
            ConfigError: No finished run there.
            CheckpointError: Weights are damaged or do not belong together.
        """
        return cls.from_stages(RunStages.read(uri), read_sampling(uri), device=device)

    @classmethod
    def from_stages(
        cls, stages: RunStages, sampling: Sampling, *, device: str = "auto"
    ) -> "UnCLIP":
        """Load a stack from the folders of its stages."""
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        stack = load_stack(stages, torch.device(device))
        wanted = sampling.upsamplers[: len(stack.upsamplers)]
        return cls(stack, sampling.model_copy(update={"upsamplers": wanted}))

    @property
    def image_px(self) -> int:
        """Side of the final pictures, pixels."""
        used = self.stack.upsamplers[: len(self.sampling.upsamplers)]
        return used[-1][0].config.high_px if used else self.stack.decoder.config.image_px

    @overload
    def __call__(
        self,
        prompts: str,
        *,
        seed: int = 0,
        guidance_scale: float | None = None,
        decoder_steps: int | None = None,
        batch_size: int = 16,
    ) -> Image.Image: ...

    @overload
    def __call__(
        self,
        prompts: list[str],
        *,
        seed: int = 0,
        guidance_scale: float | None = None,
        decoder_steps: int | None = None,
        batch_size: int = 16,
    ) -> list[Image.Image]: ...

    def __call__(
        self,
        prompts: str | list[str],
        *,
        seed: int = 0,
        guidance_scale: float | None = None,
        decoder_steps: int | None = None,
        batch_size: int = 16,
    ) -> Image.Image | list[Image.Image]:
        """Make one picture per prompt.

        Args:
            prompts: A text, or a list of texts; give a text several times for several pictures.
            seed: Picture i of the list is a function of the seed, i and its prompt.
            guidance_scale: Of the decoder; the run's own by default.
            decoder_steps: Denoising steps of the decoder; the run's own by default.
            batch_size: Pictures computed together.

        Returns:
            A picture for a text, a list of pictures for a list.

        Raises:
            ConfigError: A prompt or a number is refused; nothing was computed.
        """
        texts = [prompts] if isinstance(prompts, str) else prompts
        prompt_rules.check(texts)
        if len(texts) > MAX_PICTURES or batch_size < 1 or seed < 0:
            raise ConfigError(
                f"prompts={len(texts)}, batch_size={batch_size}, seed={seed}: at most "
                f"{MAX_PICTURES} prompts, a batch of 1 or more and a seed of 0 or more are accepted"
            )
        stack = self.with_decoder(guidance_scale, decoder_steps)
        made: list[Image.Image] = []
        for start in range(0, len(texts), batch_size):
            part = texts[start : start + batch_size]
            indices = range(start, start + len(part))
            z_img = stack.sample_prior(part, seed, indices)
            final = stack.upsample(stack.decode(z_img, part, seed, indices), seed, indices)
            made += to_images(final)
        return made[0] if isinstance(prompts, str) else made

    def with_decoder(self, guidance_scale: float | None, num_steps: int | None) -> "UnCLIP":
        """The same stack with other decoder settings; None keeps one.

        Raises:
            ConfigError: A setting is out of its range.
        """
        given = {"guidance_scale": guidance_scale, "num_steps": num_steps}
        changes = {name: value for name, value in given.items() if value is not None}
        if not changes:
            return self
        values = {**self.sampling.decoder.model_dump(), **changes}
        try:
            decoder = type(self.sampling.decoder).model_validate(values)
        except ValueError as error:
            raise ConfigError(f"decoder settings {changes} are refused: {error}") from error
        return UnCLIP(self.stack, self.sampling.model_copy(update={"decoder": decoder}))

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> TextConditions:
        """Captions → CLIP's text embedding, states and mask; the empty caption is accepted."""
        return clip_conditions(self.stack.clip, texts, self._device)

    @torch.inference_mode()
    def sample_prior(
        self, texts: Sequence[str], seed: int, indices: Sequence[int]
    ) -> Float[Tensor, " batch dim"]:
        """Captions → raw z_img: of several draws the one closest to z_txt.

        Where the settings or the decoder ask for it, z_txt itself (paper §5.1).

        Args:
            texts: Captions.
            seed: Seed of all draws.
            indices: Number of each picture, which keys its noise.
        """
        settings = self.sampling.prior
        conditions = self.encode([*texts, ""])
        if self.stack.prior is None or self._embedding == "z_txt" or settings.source == "z_txt":
            return conditions.z_txt[: len(texts)]
        return draw_z_img(self.stack.prior, conditions, seed, indices, settings)

    @torch.inference_mode()
    def decode(
        self,
        z_img: Float[Tensor, " batch dim"] | None,
        texts: Sequence[str],
        seed: int,
        indices: Sequence[int],
    ) -> Float[Tensor, " batch 3 side side"]:
        """z_img and captions → pictures in [-1, 1] of the decoder's side.

        Args:
            z_img: Raw image embeddings; None leaves the picture to the captions alone.
            texts: Captions; an empty one leaves the picture to z_img alone.
            seed: Seed of all draws.
            indices: Number of each picture, which keys its noise.
        """
        side = self.stack.decoder.config.image_px
        noise = noise_on(self._device, picture_seeds(seed, "decoder", indices), (3, side, side))
        return self._sample_decoder(self.denoiser(z_img, texts), noise).clamp(-1, 1)

    @torch.inference_mode()
    def denoiser(self, z_img: Float[Tensor, " batch dim"] | None, texts: Sequence[str]) -> Denoiser:
        """The decoder with raw z_img (or none) and captions bound, guided as the settings say."""
        decoder, settings, num = self.stack.decoder, self.sampling.decoder, len(texts)
        doubled = settings.guidance_scale != 1.0
        conditions = self.encode([*texts, ""])
        bound = conditions.take([*range(num), *([num] * num if doubled else [])])
        bound = decoder_conditions(bound, decoder.text_encoder)
        is_hidden = z_img is None or self._embedding == "none"
        z_img = torch.zeros_like(conditions.z_txt[:num]) if z_img is None else z_img
        z_rows = torch.cat([z_img, torch.zeros_like(z_img)]) if doubled else z_img
        num_conditioned = 0 if is_hidden else num
        has_z_img = torch.arange(len(z_rows), device=z_rows.device) < num_conditioned

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            text = (bound.z_txt, bound.text_states, bound.text_mask)
            return decoder(x_t, t, z_rows, has_z_img, *text)

        denoiser = guided(denoise, settings.guidance_scale, 3) if doubled else denoise
        if settings.clip_guidance_scale == 0.0:
            return denoiser
        score = caption_score(self.stack.clip, conditions.take(range(num)))
        return climbing(denoiser, self.stack.decoder_process, score, settings.clip_guidance_scale)

    def _sample_decoder(self, denoiser: Denoiser, noise: NoiseSource) -> Tensor:
        settings, process = self.sampling.decoder, self.stack.decoder_process
        steps = checked_steps(settings.num_steps, process)
        learned = self.stack.decoder.config.learned_variance
        share = settings.dynamic_threshold
        threshold = clip_to_unit if share is None else dynamic_threshold(share)
        if settings.sampler == "ddpm":
            variance = "learned_range" if learned else "fixed_small"
            return ddpm_sample(
                denoiser, process, noise, steps, variance=variance, threshold=threshold
            )

        def mean_only(x_t: Tensor, t: Tensor) -> Tensor:
            return denoiser(x_t, t)[:, : x_t.shape[1]]

        if settings.sampler == "dpm_solver":
            return dpm_solver_sample(mean_only, process, noise, steps, threshold=threshold)
        return ddim_sample(mean_only, process, noise, steps, eta=settings.eta, threshold=threshold)

    def upsample(
        self, pictures: Float[Tensor, " batch 3 side side"], seed: int, indices: Sequence[int]
    ) -> Float[Tensor, " batch 3 larger larger"]:
        """Run every configured upsampler, smallest first; pictures in [-1, 1]."""
        for level, settings in enumerate(self.sampling.upsamplers):
            model, process = self.stack.upsamplers[level]
            seeds = picture_seeds(seed, f"upsampler/{level}", indices)
            pictures = upsample_once(model, process, pictures, seeds, settings)
        return pictures

    @torch.inference_mode()
    def encode_pictures(
        self, pictures: Float[Tensor, " batch 3 side side"]
    ) -> Float[Tensor, " batch dim"]:
        """Pictures in [-1, 1] → raw z_img, resized to the side that CLIP reads."""
        clip = self.stack.clip
        return clip.encode_image(as_clip_reads(pictures, clip.config.vision.image_px))
