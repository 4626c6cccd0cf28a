"""The small web on a port of this machine, in a process of its own.

``python -m pipeline.demo.server --config-json '{"type": "small_web", …}'`` prints one JSON line
(``{"port": 40123}`` or ``{"error": "…"}``) and serves by Host header until its standard input
ends, so that it never outlives the process that started it.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from aiohttp import web

from pipeline.demo.config import SmallWebConfig
from pipeline.demo.web import SmallWeb
from pipeline.errors import EXIT_OK, EXIT_USAGE, ConfigError, StorageError

LOOPBACK = "127.0.0.1"
_STOP_S = 5.0


@contextmanager
def serving(config: SmallWebConfig, host: str = LOOPBACK) -> Iterator[int]:
    """Serve the small web while the block runs; gives the port.

    Args:
        config: The small web.
        host: This machine's address to listen on.

    Raises:
        ConfigError: The configured port cannot be taken.
    """
    process = _start(config, host)
    try:
        yield _announced_port(process)
    finally:
        _stop(process)


def _start(config: SmallWebConfig, host: str) -> "subprocess.Popen[str]":
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "pipeline.demo.server", "--host", host]
    # A session of its own: Ctrl-C reaches the job first, which then stops this in order.
    return subprocess.Popen(
        [*command, "--config-json", config.model_dump_json()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": path},
    )


def _announced_port(process: "subprocess.Popen[str]") -> int:
    assert process.stdout is not None  # a pipe, by _start
    line = process.stdout.readline()
    if not line:
        raise StorageError(f"the small web ended with exit code {process.wait()} before it served")
    answer = json.loads(line)
    if "error" in answer:
        raise ConfigError(answer["error"])
    return answer["port"]


def _stop(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None  # pipes, by _start
    assert process.stdout is not None
    process.stdin.close()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


def bind(port: int, host: str = LOOPBACK) -> socket.socket:
    """Take a port of this machine, 0 for a free one.

    Raises:
        ConfigError: Another process has it, or this user may not take it.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"port={port}: cannot listen on {host}:{port} ({error.strerror}); "
            "choose another port, or 0 for a free one"
        ) from error
    return listener


def application(small_web: SmallWeb) -> web.Application:
    """The aiohttp application that answers for all hosts of a small web."""

    async def answer(request: web.Request) -> web.Response:
        host = request.host.partition(":")[0].lower()
        response = small_web.respond(host, request.rel_url.raw_path_qs)
        if response.delay_s:
            await asyncio.sleep(response.delay_s)
        return web.Response(status=response.status, headers=response.headers, body=response.body)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    return app


async def _serve(small_web: SmallWeb, listener: socket.socket) -> None:
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    runner = web.AppRunner(application(small_web), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    watch = threading.Thread(target=_watch_stdin, args=(loop, stopped), daemon=True)
    watch.start()
    _say({"port": listener.getsockname()[1]})
    await stopped.wait()
    await runner.cleanup()


def _watch_stdin(loop: asyncio.AbstractEventLoop, stopped: asyncio.Event) -> None:
    # os.read, not sys.stdin: a daemon thread inside a buffered reader breaks the interpreter's end.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    loop.call_soon_threadsafe(stopped.set)


def _say(answer: dict[str, int] | dict[str, str]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until standard input ends or SIGTERM comes."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.demo.server", description=__doc__)
    parser.add_argument("--config-json", required=True, help="a SmallWebConfig as JSON")
    parser.add_argument("--host", default=LOOPBACK, help="address to listen on")
    options = parser.parse_args(arguments)
    config = SmallWebConfig.model_validate_json(options.config_json)
    try:
        listener = bind(config.execution.port, options.host)
    except ConfigError as error:
        _say({"error": str(error)})
        return EXIT_USAGE
    asyncio.run(_serve(SmallWeb(config), listener))
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
