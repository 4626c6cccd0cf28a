"""Two folders of pictures to compare, whose metadata give them away, and a server of their page."""

import asyncio
import threading
from contextlib import contextmanager

from aiohttp import web
from PIL import Image, PngImagePlugin

from pipeline.rating.app import application
from pipeline.rating.store import Store

CAPTIONS = ("a <red> circle", "a blue square")


def make_folder(folder, name, *, num, side, captions=CAPTIONS):
    """``num`` pictures per caption, with a caption beside each and the system's name inside."""
    folder.mkdir(parents=True)
    for place in range(num * len(captions)):
        texts = PngImagePlugin.PngInfo()
        texts.add_text("Model", f"secret {name}")
        shade = (hash((name, place)) % 200, 40 * (place % 5), side % 256)
        image = Image.new("RGB", (side, side), shade)
        image.save(folder / f"{place:03d}.png", pnginfo=texts)
        (folder / f"{place:03d}.txt").write_text(captions[place % len(captions)])
    return str(folder)


@contextmanager
def serving(path, token=None):
    """The pages over a database that has begun; gives their address."""
    loop, ready, found = asyncio.new_event_loop(), threading.Event(), []

    async def run():
        store = Store(path)
        runner = web.AppRunner(application(store, token))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        found.append(runner.addresses[0][1])
        stop = asyncio.Event()
        found.append(stop)
        ready.set()
        await stop.wait()
        await runner.cleanup()
        store.close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    ready.wait(30)
    try:
        yield f"http://127.0.0.1:{found[0]}"
    finally:
        loop.call_soon_threadsafe(found[1].set)
        thread.join(30)
        loop.close()
