"""An MLflow server to start and stop, by the script that we give to people."""

import os
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """MLflow on one port and folder, started and stopped at will."""

    def __init__(self, folder: Path, host: str = "127.0.0.1", **settings: str) -> None:
        self.folder, self.port, self.settings = folder, free_port(), settings
        self.address = f"http://{host}:{self.port}"
        if host != "127.0.0.1":
            self.settings |= {"HOST": host, "ALLOWED_HOSTS": f"{host}:{self.port}"}
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        places = {"PORT": str(self.port), "FOLDER": str(self.folder)}
        environment = {**os.environ, **places, **self.settings}
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                [str(ROOT / "infra/mlflow/serve.sh")], env=environment, stdout=log, stderr=log
            )
        for _ in range(720):
            try:
                with urllib.request.urlopen(f"{self.address}/health", timeout=1):
                    return
            except OSError:
                assert self.process.poll() is None, (self.folder / "server.log").read_text()
                time.sleep(0.25)
        raise AssertionError((self.folder / "server.log").read_text())

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=120)
        self.process = None
