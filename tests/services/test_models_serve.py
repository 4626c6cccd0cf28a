"""A model as MLflow serves it: a prompt goes in by HTTP, a PNG comes out."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from pipeline.generation.unclip import UnCLIP
from tests import tiny_stack
from tests.mlflow_server import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    # MLflow warns about type hints of its own classes while it is imported.
    pytest.mark.filterwarnings("ignore:.*type hint:UserWarning"),
]
START_S = 120


@pytest.fixture(scope="module")
def run_uri(tmp_path_factory):
    return tiny_stack.make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def address(run_uri, tmp_path_factory):
    from pipeline.interop.mlflow_model import save

    folder = tmp_path_factory.mktemp("served")
    save(run_uri, str(folder / "unclip"))
    port, programs = free_port(), Path(sys.executable).parent
    command = [programs / "mlflow", "models", "serve", "-m", folder / "unclip"]
    with (folder / "said").open("wb") as said:
        server = subprocess.Popen(
            [*command, "--env-manager", "local", "--port", str(port), "--host", "127.0.0.1"],
            cwd=folder,  # the model brings its code
            env={**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", server, folder / "said")
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait(10)


def wait_for(address, server, said):
    ends = time.monotonic() + START_S
    while time.monotonic() < ends and server.poll() is None:
        with suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return
        time.sleep(0.5)
    raise AssertionError(said.read_text()[-3000:])


def asked(address, prompts):
    rows = {"columns": ["prompt"], "data": [[prompt] for prompt in prompts]}
    body = json.dumps({"dataframe_split": rows, "params": {"seed": 4}}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["predictions"]


def test_prompts_are_answered_with_the_runs_pictures(address, run_uri):
    prompts = ["a red circle", "a blue square"]
    expected = UnCLIP.from_run(run_uri, device="cpu")(prompts, seed=4)
    for row, image in zip(asked(address, prompts), expected, strict=True):
        found = Image.open(io.BytesIO(base64.b64decode(row["png"])))
        assert (found.format, found.tobytes()) == ("PNG", image.tobytes())


def test_a_wrong_prompt_is_refused_with_its_reason(address):
    with pytest.raises(urllib.error.HTTPError) as refused:
        asked(address, [" "])
    assert refused.value.code >= 400
    assert "prompt 0 is empty" in refused.value.read().decode()
