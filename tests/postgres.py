"""A PostgreSQL of our own for as long as a test lasts: no password, on a Unix socket alone."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@contextmanager
def database() -> Iterator[str]:
    """The address of an empty database, as SQLAlchemy reads it."""
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
    user = "postgres" if os.getuid() == 0 else None  # it refuses to run as root
    if user:
        shutil.chown(folder, user)
    binaries, data = BINARIES[-1], folder / "data"
    commands = {"user": user, "cwd": folder, "check": True, "capture_output": True}
    subprocess.run(
        [binaries / "initdb", "-D", data, "-U", "mlflow", "-A", "trust", "--no-sync"], **commands
    )
    options = ["-c", "listen_addresses=", "-k", folder, "-c", "fsync=off"]
    server = subprocess.Popen(
        [binaries / "postgres", "-D", data, *options],
        user=user,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        ready = ["psql", "-h", folder, "-U", "mlflow", "postgres", "-c", "create database mlflow"]
        for _ in range(100):
            if subprocess.run(ready, capture_output=True, check=False).returncode == 0:
                break
            assert server.poll() is None, "PostgreSQL did not start"
            subprocess.run(["sleep", "0.1"], check=True)
        yield f"postgresql+psycopg2://mlflow@/mlflow?host={folder}"
    finally:
        server.send_signal(signal.SIGINT)  # SIGTERM would wait for whoever is connected
        server.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)
