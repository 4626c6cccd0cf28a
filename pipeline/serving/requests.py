"""What clients may ask for, checked before any model is."""

import base64
import binascii
import io
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from PIL import Image, UnidentifiedImageError
from pydantic import Field, ValidationError
from starlette.requests import Request

from pipeline.config import StrictModel
from pipeline.errors import ConfigError
from pipeline.generation import prompts
from pipeline.generation.safety import PromptRules
from pipeline.serving.config import ServeConfig

MAX_BODY_BYTES = 65_536
MAX_PICTURE_BYTES = 8_000_000
FORMATS = ("PNG", "JPEG", "WEBP")


class Wanted(StrictModel):
    """One request: pictures of a prompt, or variations of a picture."""

    prompt: str = ""
    """Of variations too, where the decoder shall read one."""
    picture: str | None = None
    """A PNG, JPEG or WebP file in base64, whose z_img takes the place of the prior's."""
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    """Picture i is a function of the seed, i and what is asked."""
    num_pictures: int = Field(default=1, ge=1)
    guidance_scale: float | None = Field(default=None, ge=0, le=50)
    """Of the decoder; the run's own by default."""


class Refused(Exception):
    """A request that cannot be served."""

    def __init__(self, status: int, reason: str) -> None:
        """State the HTTP status and the reason."""
        super().__init__(reason)
        self.status, self.reason = status, reason


def checked(
    values: Mapping[str, Any],
    config: ServeConfig,
    rules: PromptRules | None = None,
    *,
    of_picture: bool,
) -> Wanted:
    """A request within its limits.

    Args:
        values: Its fields.
        config: The limits.
        rules: What no prompt may hold.
        of_picture: Whether variations are asked for.

    Raises:
        Refused: A value is out of its range; says which.
    """
    try:
        wanted = Wanted.model_validate(values)
    except ValidationError as error:
        raise Refused(422, f"expected prompt and seed: {_brief(error)}") from error
    limit, num = config.max_prompt_chars, wanted.num_pictures
    if len(wanted.prompt) > limit:
        raise Refused(422, f"the prompt has {len(wanted.prompt)} characters, at most {limit}")
    if num > config.max_pictures:
        raise Refused(422, f"num_pictures={num}, at most {config.max_pictures}")
    if of_picture != (wanted.picture is not None):
        raise Refused(422, f"picture: {'needed' if of_picture else 'belongs to /variations'}")
    if wanted.prompt or not of_picture:
        _check_prompt(wanted.prompt, rules)
    return wanted


def _check_prompt(prompt: str, rules: PromptRules | None) -> None:
    try:
        prompts.check([prompt])
    except ConfigError as error:
        raise Refused(422, str(error)) from error
    if rules is not None and (rule := rules(prompt)) is not None:
        raise Refused(422, f"the prompt is refused by the safety rule {rule}")


def picture_of(wanted: Wanted, config: ServeConfig) -> Image.Image | None:
    """The picture that was sent in, its middle square as RGB.

    Raises:
        Refused: It is none, or too large.
    """
    if wanted.picture is None:
        return None
    try:
        content = base64.b64decode(wanted.picture, validate=True)
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if max(image.size) > config.max_picture_px:
                raise Refused(422, f"picture: {image.size}, at most {config.max_picture_px} px")
            rgb = image.convert("RGB")
    except (binascii.Error, UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        told = f"picture: no readable {', '.join(FORMATS)} file in base64"
        raise Refused(422, told) from error
    side = min(rgb.size)
    left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
    return rgb.crop((left, top, left + side, top + side))


def json_values(body: bytes) -> dict[str, Any]:
    """The fields of a JSON body.

    Raises:
        Refused: It is no JSON object.
    """
    try:
        values = json.loads(body)
    except ValueError as error:
        raise Refused(422, f"expected JSON with prompt and seed: {error}") from error
    if not isinstance(values, dict):
        raise Refused(422, f"expected JSON with prompt and seed, got {type(values).__name__}")
    return values


def form_values(form: Mapping[str, str]) -> dict[str, Any]:
    """A form's fields as a request; empty ones keep their defaults."""
    names = {"number": "num_pictures", "guidance": "guidance_scale"}
    known = ("prompt", "picture", "seed", *names)
    return {names.get(name, name): form[name] for name in known if form.get(name)}


def form_of(body: bytes) -> dict[str, str]:
    """The fields of an urlencoded body, each once."""
    return {name: found[0] for name, found in parse_qs(body.decode("utf-8", "replace")).items()}


async def body_of(request: Request, limit: int) -> bytes:
    """The request's body, read no further than the limit.

    Raises:
        Refused: It is longer.
    """
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > limit:
            raise Refused(413, f"the request is longer than {limit} bytes")
    return bytes(content)


def _brief(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(str(part) for part in found['loc'])}: {found['msg']}"
        for found in error.errors(include_url=False)
    )
