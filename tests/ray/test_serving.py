"""The service, started once on a private Ray."""

import io
import json
import socket
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from pipeline.generation.unclip import UnCLIP
from pipeline.runtime import RayConfig, prepare_environment, ray_session
from pipeline.serving.config import ServeConfig
from tests import tiny_stack

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
                run_uri=run_uri,
                port=port,
                max_batch_size=2,
                max_ongoing_requests=2,
                max_queued_requests=1,
            )
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
    differences = [abs(a - b) for a, b in zip(image.tobytes(), expected.tobytes(), strict=True)]
    assert max(differences) <= 1


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
    ],
)
def test_wrong_requests_are_answered_with_the_reason(address, wanted, reason):
    status, body = post(f"{address}/generate", wanted)
    assert status == 422
    assert reason in json.loads(body)["error"]


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


def test_a_full_queue_answers_503_and_loses_nothing(address):
    def ask(number):
        return post(f"{address}/generate", {"prompt": f"picture {number}", "seed": number})

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(ask, range(24)))
    codes = [status for status, _ in answers]
    assert set(codes) == {200, 503}
    assert all(body.startswith(b"\x89PNG") for status, body in answers if status == 200)
