"""Ray Serve: pictures for programs and people.

- ``POST /generate``: JSON ``prompt, seed, num_pictures, guidance_scale`` → a PNG; of several
  pictures JSON ``{"pictures": [base64, …], "withheld": [[], …]}``. What a safety rule withholds is
  black; why stands in ``withheld``, or in the header ``X-Withheld`` of a single one
- ``POST /variations``: the same with ``picture`` (base64): other pictures with its z_img
- ``/``: the page; ``GET /healthz``: the state and the models

Waiting requests with equal settings share one sampling run. Where more wait than the limit, Serve
answers 503 at once, so that nothing is accepted and then lost.
"""

import asyncio
import base64
import time
from collections.abc import Mapping
from typing import Any

import torch
from ray import serve
from ray.util.metrics import Counter, Histogram
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from pipeline.generation.pictures import models_as_facts
from pipeline.generation.safety import PromptRules, picture_rules
from pipeline.generation.unclip import UnCLIP
from pipeline.memory import keep_freed_memory
from pipeline.serving.config import ServeConfig
from pipeline.serving.drawing import Drawn, Order, draw
from pipeline.serving.page import page
from pipeline.serving.requests import (
    MAX_BODY_BYTES,
    MAX_PICTURE_BYTES,
    Refused,
    body_of,
    checked,
    form_of,
    form_values,
    json_values,
    picture_of,
)

APPLICATION = "unclip"
GENERATE, VARIATIONS = "/generate", "/variations"
SECONDS = [0.1, 0.3, 1, 3, 10, 30, 100]


class PictureService:
    """The deployment: one stack, batches of requests."""

    def __init__(self, config: ServeConfig, run_uri: str) -> None:
        """Load the models once per replica."""
        torch.set_num_threads(config.threads)
        keep_freed_memory()
        device = "cuda" if config.gpus_per_replica > 0 else "cpu"
        self._config = config
        self._unclip = UnCLIP.from_run(run_uri, device=device)
        clip = self._unclip.stack.clip.config, self._unclip.stack.fingerprints["clip"]
        self._prompt_rules = None if config.safety is None else PromptRules(config.safety)
        self._picture_rules = picture_rules(config.safety, *clip)
        self._draw.set_max_batch_size(config.max_batch_size)  # type: ignore[attr-defined]
        self._draw.set_batch_wait_timeout_s(config.batch_wait_s)  # type: ignore[attr-defined]
        self._pictures = Counter("unclip_pictures", "Pictures made")
        self._withheld = Counter("unclip_withheld", "Pictures withheld by safety rules")
        self._refused = Counter("unclip_refused", "Requests refused", ("status",))
        self._seconds = Histogram("unclip_request_seconds", "From request to answer", SECONDS)

    async def __call__(self, request: Request) -> Response:
        """Answer one HTTP request."""
        method, path = request.method, request.url.path
        try:
            if method == "POST" and path in (GENERATE, VARIATIONS):
                return await self._post(request, of_picture=path == VARIATIONS)
            if path == "/":
                return await self._form(request)
            if (method, path) == ("GET", "/healthz"):
                models = models_as_facts(self._unclip.stack.fingerprints)
                return JSONResponse({"status": "ok", "models": models})
        except Refused as refused:
            self._count(refused)
            return JSONResponse({"error": refused.reason}, refused.status)
        return JSONResponse({"error": "no such page"}, 404)

    async def _post(self, request: Request, *, of_picture: bool) -> Response:
        body = await body_of(request, MAX_PICTURE_BYTES if of_picture else MAX_BODY_BYTES)
        made = await self._made(json_values(body), of_picture=of_picture)
        if len(made) == 1:
            told = {"X-Withheld": ", ".join(made[0].withheld)} if made[0].withheld else None
            return Response(made[0].png, media_type="image/png", headers=told)
        pictures = [base64.b64encode(each.png).decode() for each in made]
        return JSONResponse({"pictures": pictures, "withheld": [each.withheld for each in made]})

    async def _form(self, request: Request) -> Response:
        """The page: prompts come in its address, pictures to vary in its body."""
        if request.method == "POST":
            form = form_of(await body_of(request, MAX_PICTURE_BYTES))
            return await self._page(form, of_picture=True)
        asked = dict(request.query_params)
        return await self._page(asked, of_picture=False) if asked else HTMLResponse(page())

    async def _page(self, asked: Mapping[str, str], *, of_picture: bool) -> Response:
        """What a form asks for, or why not, on the page."""
        try:
            made = await self._made(form_values(asked), of_picture=of_picture)
        except Refused as refused:
            self._count(refused)
            return HTMLResponse(page(asked, error=refused.reason), refused.status)
        return HTMLResponse(page(asked, made))

    async def _made(self, values: dict[str, Any], *, of_picture: bool) -> list[Drawn]:
        started = time.perf_counter()
        wanted = checked(values, self._config, self._prompt_rules, of_picture=of_picture)
        made = await self._draw(Order(wanted, picture_of(wanted, self._config)))
        self._pictures.inc(len(made))
        if withheld := sum(bool(each.withheld) for each in made):
            self._withheld.inc(withheld)
        self._seconds.observe(time.perf_counter() - started)
        return made

    def _count(self, refused: Refused) -> None:
        self._refused.inc(tags={"status": str(refused.status)})

    @serve.batch
    async def _draw(self, orders: list[Order]) -> list[list[Drawn]]:
        """Pictures of several requests; sampling runs beside the event loop, which stays awake."""
        size, rules = self._config.max_batch_size, self._picture_rules
        return await asyncio.to_thread(draw, self._unclip, orders, size, rules)


def application(config: ServeConfig, run_uri: str) -> serve.Application:
    """The service of a run's models as a Ray Serve application."""
    deployment = serve.deployment(
        name="pictures",
        num_replicas=config.num_replicas,
        max_ongoing_requests=config.max_ongoing_requests,
        max_queued_requests=config.max_queued_requests,
        ray_actor_options={"num_cpus": 1, "num_gpus": config.gpus_per_replica},
        health_check_period_s=10,
    )(PictureService)
    return deployment.bind(config, run_uri)


def start(config: ServeConfig, run_uri: str) -> None:
    """Serve until ``serve.shutdown()``; returns when the models are loaded. Ray must be open.

    Args:
        config: How to serve.
        run_uri: ``output_dir`` of the run whose models are served.
    """
    serve.start(http_options={"host": config.host, "port": config.port})
    serve.run(application(config, run_uri), name=APPLICATION, route_prefix="/")
