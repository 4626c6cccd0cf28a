"""The service, started once on a private Ray."""

import base64
import io
import json
import os
import socket
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from pipeline.generation.unclip import UnCLIP
from pipeline.runtime import RayConfig, prepare_environment, ray_session
from pipeline.serving.config import ServeConfig
from tests import tiny_stack
from tests.browser import open_browser

# Ray warns of its own deprecations, which nobody here can mend.
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def run_uri(tmp_path_factory):
    return tiny_stack.make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def address(run_uri):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    from ray import serve  # warns about its own use of pydantic while it is imported

    from pipeline.serving.app import start

    prepare_environment()
    with ray_session(RayConfig(num_cpus=3)):
        start(
            ServeConfig(
                port=port,
                max_batch_size=2,
                max_ongoing_requests=2,
                max_queued_requests=4,
                max_pictures=4,
            ),
            run_uri,
        )
        yield f"http://127.0.0.1:{port}"
        serve.shutdown()


def get(url):
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.status, answer.headers["content-type"], answer.read()


def post(url, value):
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_a_prompt_gives_the_picture_that_the_library_gives(address, run_uri):
    status, png = post(f"{address}/generate", {"prompt": "a red circle", "seed": 5})
    assert status == 200
    image = Image.open(io.BytesIO(png))
    assert image.text["Generated"] == "true"
    assert image.text["Prompt"] == "a red circle"
    expected = UnCLIP.from_run(run_uri, device="cpu")("a red circle", seed=5)
    assert differ(image, expected) <= 1


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"prompt": ""}, "empty"),
        ({"prompt": "word " * 80}, "longer than"),
        ({"prompt": "x" * 401}, "401 characters"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": "fine", "seed": -1}, "seed"),
        ({"prompt": "fine", "colour": 1}, "colour"),
        (b"not json", "expected JSON"),
        ([], "expected JSON"),
        ({"prompt": "fine", "num_pictures": 5}, "num_pictures=5, at most 4"),
        ({"prompt": "fine", "picture": "aaaa"}, "belongs to /variations"),
    ],
)
def test_wrong_requests_are_answered_with_the_reason(address, wanted, reason):
    status, body = post(f"{address}/generate", wanted)
    assert status == 422
    assert reason in json.loads(body)["error"]


def test_several_pictures_are_those_of_their_numbers(address, run_uri):
    status, body = post(
        f"{address}/generate", {"prompt": "a red circle", "seed": 5, "num_pictures": 3}
    )
    assert status == 200
    pngs = [base64.b64decode(text) for text in json.loads(body)["pictures"]]
    unclip = UnCLIP.from_run(run_uri, device="cpu")
    expected = unclip(["a red circle"] * 3, seed=5)
    assert len({image.tobytes() for image in expected}) == 3
    for png, image, number in zip(pngs, expected, "012", strict=True):
        found = Image.open(io.BytesIO(png))
        assert differ(found, image) <= 1
        assert found.text["Picture"] == number


def differ(found, expected):
    pixels = zip(found.tobytes(), expected.tobytes(), strict=True)
    return max(abs(a - b) for a, b in pixels)


def test_variations_follow_their_picture_not_the_prior(address):
    picture = base64.b64encode(post(f"{address}/generate", {"prompt": "a", "seed": 1})[1]).decode()
    asked = {"picture": picture, "seed": 7, "num_pictures": 2}
    status, body = post(f"{address}/variations", asked)
    assert status == 200
    pngs = json.loads(body)["pictures"]
    assert pngs[0] != pngs[1]
    assert json.loads(post(f"{address}/variations", asked)[1])["pictures"] == pngs
    other = {"picture": base64.b64encode(noise()).decode(), "seed": 7, "num_pictures": 2}
    assert json.loads(post(f"{address}/variations", other)[1])["pictures"] != pngs


def noise():
    buffer = io.BytesIO()
    Image.effect_noise((20, 12), 100).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def test_a_person_draws_a_grid_and_varies_one_of_it(address, tmp_path):
    shots = Path(os.environ.get("SCREENSHOTS", tmp_path))
    with open_browser() as page:
        for width, height in ((1280, 900), (390, 844)):
            page.go(address, width=width, height=height)
            page.type("a red circle")
            with page.loading():
                page.press("Enter")
            said = page.evaluate("document.body.innerText")
            assert page.evaluate("document.images.length") == 4, said
            assert page.evaluate("[...document.images].every(i => i.naturalWidth == 16)")
            assert not page.is_wider_than_its_window()
            page.screenshot(shots / f"serving-{width}.png")
            with page.loading():
                page.click("figure:nth-child(2) button")
            assert page.evaluate("document.images.length") == 5
            heading = page.evaluate("document.querySelector('h2').innerText")
            assert heading == "Variations of this picture, seed 1"
            assert page.evaluate("document.querySelector('[name=prompt]').value") == "a red circle"
            assert not page.is_wider_than_its_window()
            page.screenshot(shots / f"variations-{width}.png")
        page.go(f"{address}/?prompt=a&number=5")
        assert "at most 4" in page.evaluate("document.querySelector('[role=alert]').innerText")


def test_a_body_without_end_is_cut_off(address):
    status, _ = post(f"{address}/generate", b" " * 200_000)
    assert status == 413


def test_health_and_page_answer(address):
    assert get(f"{address}/healthz")[0] == 200
    status, kind, body = get(f"{address}/?prompt=a+red+circle&seed=5&guidance=")
    assert (status, kind.split(";")[0]) == (200, "text/html")
    assert b"data:image/png;base64," in body
    assert get(f"{address}/")[0] == 200
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(f"{address}/nothing")


def test_of_fifty_clients_each_gets_its_picture_or_503(address):
    def ask(number):
        return post(f"{address}/generate", {"prompt": f"picture {number}", "seed": number})

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(ask, range(50)))
    assert {status for status, _ in answers} == {200, 503}
    for number, (status, body) in enumerate(answers):
        if status == 200:
            assert Image.open(io.BytesIO(body)).text["Prompt"] == f"picture {number}"


def test_what_is_made_and_refused_is_counted(address):
    """Among Ray's metrics of the node, some seconds later; by now the tests above made some."""
    import ray

    port = ray.nodes()[0]["MetricsExportPort"]
    wanted = ("ray_unclip_pictures", "ray_unclip_refused", "ray_unclip_request_seconds")
    deadline = time.monotonic() + 60
    missing = list(wanted)
    while missing and time.monotonic() < deadline:
        time.sleep(1)
        told = get(f"http://127.0.0.1:{port}/metrics")[2].decode()
        missing = [name for name in wanted if name not in told]
    assert missing == [], told[-2000:]
