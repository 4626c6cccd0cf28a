"""The raters' web server: many raters at once, each under a name, all in one database."""

import hmac
import socket
import unicodedata
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote, unquote

from aiohttp import web

from pipeline.errors import ConfigError
from pipeline.rating import page
from pipeline.rating.config import PageConfig, StudyConfig
from pipeline.rating.store import Choice, Store
from pipeline.rating.study import Place, items

MAX_NAME, MAX_BODY_BYTES = 40, 4096
KEPT_S = 90 * 24 * 3600
"""So long a browser knows its rater, seconds."""
RATER, TOKEN = "rater", "token"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def serve(study: StudyConfig, pages: PageConfig, database: str, say: Callable[[str], None]) -> None:
    """Prepare the study where its file is new, and serve until Ctrl-C.

    Args:
        study: What is compared.
        pages: Where the page is.
        database: The SQLite file.
        say: Tells people the link.

    Raises:
        ConfigError: The port is taken, the file holds another study, or pictures are missing.
    """
    listener = _bind(pages)
    with listener:
        store = Store(database)
        try:
            store.begin(study, items)
            say(f"raters open {link(pages, listener.getsockname()[1])}")
            web.run_app(application(store, pages.token), sock=listener, print=None)
        finally:
            store.close()


def link(pages: PageConfig, port: int) -> str:
    """What raters open."""
    host = f"[{pages.host}]" if ":" in pages.host else pages.host
    secret = "" if pages.token is None else f"?token={quote(pages.token)}"
    return f"http://{host}:{port}/{secret}"


def application(store: Store, token: str | None) -> web.Application:
    """The pages over a study that has begun."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = await (handler(request) if _may_enter(request, token) else _locked(request))
        answer.headers.update(page.SECURITY)
        if token is not None and TOKEN in request.query and _may_enter(request, token):
            _remember(answer, TOKEN, request.query[TOKEN])
        return answer

    app = web.Application(middlewares=[guarded], client_max_size=MAX_BODY_BYTES)
    raters = _Raters(store)
    app.add_routes(
        [
            web.get("/", raters.show),
            web.post("/begin", raters.begin),
            web.post("/answer", raters.answer),
            web.post("/leave", raters.leave),
        ]
    )
    return app


class _Raters:
    """The handlers."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def show(self, request: web.Request) -> web.Response:
        """The comparison that is asked for, by default the first without an answer."""
        rater = self._rater(request)
        if rater is None:
            return _html(page.begin())
        places, answered = self._store.places(rater), self._store.answered(rater)
        open_ones = [i for i, p in enumerate(places) if (p.question, p.number) not in answered]
        wanted = _number(request.query.get("place"), len(places))
        if wanted is None and not open_ones:
            return _html(page.finished(rater, len(places)))
        index = open_ones[0] if wanted is None else wanted
        place, total, done = places[index], len(places), len(answered)
        chosen = answered.get((place.question, place.number))
        item, side = self._store.item(place.question, place.number), _side(place, chosen)
        return _html(page.comparison(rater, item, place.left, index, total, done, side))

    async def begin(self, request: web.Request) -> web.Response:
        """Take a name, or go on under it."""
        form = await request.post()
        name = _clean(str(form.get("name", "")))
        if not 1 <= len(name) <= MAX_NAME:
            told = f"A name has 1 to {MAX_NAME} characters."
            return _html(page.begin(name[:MAX_NAME], told), 422)
        if not self._store.add_rater(name) and "again" not in form:
            told = f"There is a rater {name} already. Is that you?"
            return _html(page.begin(name, told, taken=True), 409)
        answer = _to_start()
        _remember(answer, RATER, quote(name))
        return answer

    async def answer(self, request: web.Request) -> web.Response:
        """Keep an answer and go on."""
        rater = self._rater(request)
        if rater is None:
            return _html(page.begin(error="Please say who you are first."), 403)
        form = await request.post()
        places = self._store.places(rater)
        index = _number(str(form.get("place", "")), len(places))
        choice = None if index is None else _choice(places[index], str(form.get("choice", "")))
        if index is None or choice is None:
            return _html(page.refused("That is no answer to any comparison. Go back."), 422)
        self._store.answer(rater, places[index], choice)
        return _to_start()

    async def leave(self, request: web.Request) -> web.Response:
        """Forget the rater on this device."""
        answer = _to_start()
        answer.del_cookie(RATER)
        return answer

    def _rater(self, request: web.Request) -> str | None:
        name = unquote(request.cookies.get(RATER, ""))
        return name if self._store.is_rater(name) else None


def _choice(place: Place, side: str) -> Choice | None:
    other = "second" if place.left == "first" else "first"
    found: dict[str, Choice] = {"left": place.left, "right": other, "tie": "tie"}
    return found.get(side)


def _side(place: Place, choice: Choice | None) -> str | None:
    if choice is None or choice == "tie":
        return choice
    return "left" if choice == place.left else "right"


def _clean(name: str) -> str:
    text = " ".join(unicodedata.normalize("NFC", name).split())
    return "".join(sign for sign in text if sign.isprintable())


def _number(text: str | None, limit: int) -> int | None:
    is_number = text is not None and text.isascii() and text.isdigit() and int(text) < limit
    return int(text) if text is not None and is_number else None


def _may_enter(request: web.Request, token: str | None) -> bool:
    given = request.query.get(TOKEN) or unquote(request.cookies.get(TOKEN, ""))
    return token is None or hmac.compare_digest(given.encode(), token.encode())


async def _locked(request: web.Request) -> web.Response:
    return _html(page.refused("Please open the whole link that you were given."), 403)


def _html(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status, content_type="text/html")


def _to_start() -> web.Response:
    return web.Response(status=303, headers={"Location": "/"})


def _remember(answer: Any, name: str, value: str) -> None:  # noqa: ANN401 - any of aiohttp's
    answer.set_cookie(name, quote(unquote(value)), max_age=KEPT_S, httponly=True, samesite="Lax")


def _bind(pages: PageConfig) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in pages.host else socket.AF_INET
        return socket.create_server((pages.host, pages.port), family=family)
    except OSError as error:
        raise ConfigError(
            f"{pages.host}:{pages.port} cannot be listened on ({error}); choose another --port"
        ) from error
