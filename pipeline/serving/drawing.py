"""Requests → PNG files: what may share a sampling run does."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from pipeline.generation.pictures import models_as_facts, png_bytes, to_images
from pipeline.generation.safety import PictureRules, Verdict, shown
from pipeline.generation.unclip import UnCLIP
from pipeline.serving.requests import Wanted


@dataclass(frozen=True)
class Order:
    """One checked request."""

    wanted: Wanted
    picture: Image.Image | None
    """What shall be varied."""


@dataclass(frozen=True)
class Drawn:
    """One picture."""

    png: bytes
    """Black, where it is withheld."""
    withheld: tuple[str, ...] = ()
    """Why."""


def draw(
    unclip: UnCLIP, orders: Sequence[Order], batch_size: int, rules: PictureRules | None = None
) -> list[list[Drawn]]:
    """All pictures of every request.

    Args:
        unclip: The stack.
        orders: The requests.
        batch_size: Pictures of one sampling run.
        rules: What no picture may show.

    Returns:
        Pictures per request, in the order of their numbers.
    """
    made = [list[Drawn]() for _ in orders]
    groups: dict[tuple[int, float | None, bool], list[tuple[int, int]]] = {}
    for place, order in enumerate(orders):
        wanted = order.wanted
        shared = wanted.seed, wanted.guidance_scale, order.picture is not None
        groups.setdefault(shared, []).extend((place, i) for i in range(wanted.num_pictures))
    for members in groups.values():
        for start in range(0, len(members), batch_size):
            part = members[start : start + batch_size]
            chosen = [orders[place] for place, _ in part]
            drawn = _sampled(unclip, chosen, [index for _, index in part], rules)
            for (place, _), picture in zip(part, drawn, strict=True):
                made[place].append(picture)
    return made


def _sampled(
    unclip: UnCLIP, orders: Sequence[Order], indices: Sequence[int], rules: PictureRules | None
) -> list[Drawn]:
    """One sampling run; its requests have one seed, one guidance and one kind."""
    seed = orders[0].wanted.seed
    stack = unclip.with_decoder(orders[0].wanted.guidance_scale, None)
    texts = [order.wanted.prompt for order in orders]
    if orders[0].picture is None:
        z_img = stack.sample_prior(texts, seed, indices)
    else:
        z_img = torch.cat([_z_img(stack, order.picture) for order in orders if order.picture])
    pictures = stack.upsample(stack.decode(z_img, texts, seed, indices), seed, indices)
    images, models = to_images(pictures), models_as_facts(unclip.stack.fingerprints)
    verdicts = [Verdict((), {})] * len(images)
    if rules is not None:
        verdicts = rules(texts, images, stack.encode_pictures(pictures).float().cpu().numpy())
    return [
        Drawn(
            png_bytes(shown(image, verdict), {**_facts(order, index), **models, **verdict.facts()}),
            verdict.reasons,
        )
        for image, verdict, order, index in zip(images, verdicts, orders, indices, strict=True)
    ]


def _z_img(unclip: UnCLIP, picture: Image.Image) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
    return unclip.encode_pictures(
        pixels.float().div(127.5).sub(1).to(unclip.stack.decoder.null_z.device)
    )


def _facts(order: Order, index: int) -> dict[str, str]:
    facts = {"Prompt": order.wanted.prompt, "Seed": str(order.wanted.seed), "Picture": str(index)}
    return facts if order.picture is None else {**facts, "Variation": "true"}
