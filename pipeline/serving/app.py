"""Ray Serve: ``POST /generate`` gives a PNG, ``GET /`` a page, ``GET /healthz`` the state.

Waiting requests with equal settings share one sampling run. Where more wait than the limit, Serve
answers 503 at once, so that nothing is accepted and then lost.
"""

import asyncio
import json
from typing import Any

import torch
from pydantic import Field, ValidationError
from ray import serve
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from pipeline.config import StrictModel
from pipeline.errors import ConfigError
from pipeline.generation import prompts
from pipeline.generation.pictures import png_bytes, to_images
from pipeline.generation.unclip import UnCLIP
from pipeline.memory import keep_freed_memory
from pipeline.serving.config import ServeConfig
from pipeline.serving.page import page

MAX_BODY_BYTES = 65_536
APPLICATION = "unclip"


class Wanted(StrictModel):
    """One request: a picture of a prompt."""

    prompt: str
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    guidance_scale: float | None = Field(default=None, ge=0, le=50)
    """Of the decoder; the run's own by default."""


class Refused(Exception):
    """A request that cannot be served."""

    def __init__(self, status: int, reason: str) -> None:
        """State the HTTP status and the reason."""
        super().__init__(reason)
        self.status, self.reason = status, reason


class PictureService:
    """The deployment: one stack, batches of requests."""

    def __init__(self, config: ServeConfig) -> None:
        """Load the models once per replica."""
        torch.set_num_threads(config.threads)
        keep_freed_memory()
        device = "cuda" if config.gpus_per_replica > 0 else "cpu"
        self._config = config
        self._unclip = UnCLIP.from_run(config.run_uri, device=device)
        self._draw.set_max_batch_size(config.max_batch_size)  # type: ignore[attr-defined]
        self._draw.set_batch_wait_timeout_s(config.batch_wait_s)  # type: ignore[attr-defined]

    async def __call__(self, request: Request) -> Response:
        """Answer one HTTP request."""
        route = (request.method, request.url.path)
        try:
            if route == ("POST", "/generate"):
                return await self._generate(request)
            if route == ("GET", "/"):
                return await self._form(request)
            if route == ("GET", "/healthz"):
                return JSONResponse({"status": "ok", "models": dict(self._fingerprints())})
        except Refused as refused:
            return JSONResponse({"error": refused.reason}, refused.status)
        return JSONResponse({"error": "no such page"}, 404)

    async def _generate(self, request: Request) -> Response:
        body = await _body(request)
        try:
            wanted = Wanted.model_validate(json.loads(body))
        except (ValueError, ValidationError) as error:
            raise Refused(422, f"expected JSON with prompt and seed: {_brief(error)}") from error
        png = await self._png(wanted)
        return Response(png, media_type="image/png")

    async def _form(self, request: Request) -> Response:
        asked = request.query_params
        prompt, seed = asked.get("prompt", ""), asked.get("seed", "0")
        guidance = asked.get("guidance", "")
        if "prompt" not in asked:
            return HTMLResponse(page())
        try:
            wanted = Wanted.model_validate(
                {"prompt": prompt, "seed": seed or "0", "guidance_scale": guidance or None}
            )
            png = await self._png(wanted)
        except ValidationError as error:
            return HTMLResponse(page(prompt, seed, guidance, error=_brief(error)), 422)
        except Refused as refused:
            refusal = page(prompt, seed, guidance, error=refused.reason)
            return HTMLResponse(refusal, refused.status)
        return HTMLResponse(page(prompt, seed, guidance, png))

    async def _png(self, wanted: Wanted) -> bytes:
        limit = self._config.max_prompt_chars
        if len(wanted.prompt) > limit:
            raise Refused(422, f"the prompt has {len(wanted.prompt)} characters, at most {limit}")
        try:
            prompts.check([wanted.prompt])
        except ConfigError as error:
            raise Refused(422, str(error)) from error
        return await self._draw(wanted)

    @serve.batch
    async def _draw(self, batch: list[Wanted]) -> list[bytes]:
        """PNGs of several requests; sampling runs beside the event loop, which stays awake."""
        return await asyncio.to_thread(self._draw_now, batch)

    def _draw_now(self, batch: list[Wanted]) -> list[bytes]:
        """Requests of equal seed and guidance are sampled together, as picture 0 of their seed."""
        groups: dict[tuple[int, float | None], list[int]] = {}
        for place, wanted in enumerate(batch):
            groups.setdefault((wanted.seed, wanted.guidance_scale), []).append(place)
        pngs = [b""] * len(batch)
        for (seed, guidance_scale), places in groups.items():
            texts = [batch[place].prompt for place in places]
            indices = [0] * len(texts)
            stack = self._unclip.with_decoder(guidance_scale, None)
            z_img = stack.sample_prior(texts, seed, indices)
            pictures = stack.upsample(stack.decode(z_img, texts, seed, indices), seed, indices)
            for place, image in zip(places, to_images(pictures), strict=True):
                facts = {"Prompt": batch[place].prompt, "Seed": str(seed), **self._fingerprints()}
                pngs[place] = png_bytes(image, facts)
        return pngs

    def _fingerprints(self) -> dict[str, str]:
        models = self._unclip.stack.fingerprints
        return {f"Model {name}": sha256[:16] for name, sha256 in models.items()}


def application(config: ServeConfig) -> serve.Application:
    """The service as a Ray Serve application."""
    deployment = serve.deployment(
        name="pictures",
        num_replicas=config.num_replicas,
        max_ongoing_requests=config.max_ongoing_requests,
        max_queued_requests=config.max_queued_requests,
        ray_actor_options={"num_cpus": 1, "num_gpus": config.gpus_per_replica},
        health_check_period_s=10,
    )(PictureService)
    return deployment.bind(config)


def start(config: ServeConfig) -> None:
    """Serve until ``serve.shutdown()``; returns when the models are loaded. Ray must be open."""
    serve.start(http_options={"host": config.host, "port": config.port})
    serve.run(application(config), name=APPLICATION, route_prefix="/")


async def _body(request: Request) -> bytes:
    """The request's body, read no further than the limit."""
    content = b""
    async for piece in request.stream():
        content += piece
        if len(content) > MAX_BODY_BYTES:
            raise Refused(413, f"the request is longer than {MAX_BODY_BYTES} bytes")
    return content


def _brief(error: Any) -> str:  # noqa: ANN401 - a ValidationError or a JSON error
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(str(part) for part in found['loc'])}: {found['msg']}"
            for found in error.errors(include_url=False)
        )
    return str(error)
