import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest

from pipeline.demo.config import SmallWebConfig, SmallWebExecution
from pipeline.demo.server import bind, serving
from pipeline.demo.web import SmallWeb
from pipeline.errors import ConfigError

CONFIG = SmallWebConfig(type="small_web", seed=1, num_pictures=20, num_hosts=2)


def get(port, host, path):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": host})
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.headers, response.read()


def refuses(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_the_server_answers_by_virtual_host_and_stops():
    web = SmallWeb(CONFIG)
    with serving(CONFIG) as port:
        for pair in web.pairs[:10]:
            address = urlsplit(pair.url)
            path = address.path + (f"?{address.query}" if address.query else "")
            headers, body = get(port, f"{address.netloc}:{port}", path)
            answer = web.respond(address.netloc, path)
            assert body == answer.body
            assert headers["Content-Type"] == answer.headers["Content-Type"]
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(port, "www.elsewhere.example", path)
    assert refuses(port)


def test_it_listens_where_it_is_told_and_nowhere_else():
    with serving(CONFIG, "127.0.0.2") as port:
        assert refuses(port)
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.2", port)) == 0


def test_a_port_in_use_is_a_config_error():
    with bind(0) as listener:
        port = listener.getsockname()[1]
        config = CONFIG.model_copy(update={"execution": SmallWebExecution(port=port)})
        with pytest.raises(ConfigError, match=f"port={port}.*or 0 for a free one"), serving(config):
            pass


def test_the_server_ends_when_its_parent_is_killed():
    code = (
        "import sys, time\n"
        "from pipeline.demo.config import SmallWebConfig\n"
        "from pipeline.demo.server import serving\n"
        f"with serving(SmallWebConfig.model_validate_json({CONFIG.model_dump_json()!r})) as port:\n"
        "    print(port, flush=True)\n"
        "    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    port = int(parent.stdout.readline())
    assert not refuses(port)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while not refuses(port) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert refuses(port)
