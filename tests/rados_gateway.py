"""A true S3 server for as long as a test lasts: Ceph's RADOS gateway over one monitor and one OSD.

All three are Debian's and on loopback; objects stay in memory. It checks signatures and conditions
and takes no trailing checksums: it stands for the stores that lag behind the cloud.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BUCKET = "bucket"
KEY, SECRET = "A" * 20, "s" * 40
CONFIG = """[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon}
public addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
mon allow pool size one = true
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = {num_bytes}
mon data = {folder}/mon
osd data = {folder}/osd
rgw multipart min part size = 1024
rgw gc obj min wait = 5
rgw gc processor period = 5
rgw gc processor max time = 5
rgw data = {folder}/rgw
rgw frontends = beast endpoint={host}:{port}
log file = {folder}/$name.log
admin socket = {folder}/$name.asok
run dir = {folder}
"""


def is_installed() -> bool:
    """Whether Debian's packages radosgw, ceph-mon and ceph-osd are here."""
    return all(map(shutil.which, ("ceph", "ceph-mon", "ceph-osd", "radosgw")))


def environment(port: int) -> dict[str, str]:
    """What programs find the gateway by, and nothing else of this machine's settings."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextmanager
def gateway(num_bytes: int = 2 << 30, host: str = "127.0.0.1") -> Iterator[int]:
    """The port of a gateway with one user and one empty bucket.

    Args:
        num_bytes: Room for objects.
        host: Where it listens; this machine reaches it on loopback in any case.
    """
    folder = Path(tempfile.mkdtemp(prefix="rgw", dir="/tmp"))
    servers: list[subprocess.Popen[bytes]] = []
    mon, port = _free_ports(2)
    fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())

    def run(*command: str) -> None:
        done = subprocess.run(_with(command), capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr.decode()[-2000:]

    def start(*command: str) -> None:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        servers.append(subprocess.Popen([*_with(command), "-f"], **quiet))

    def _with(command: tuple[str, ...]) -> list[str]:
        return [command[0], "-c", str(folder / "ceph.conf"), *command[1:]]

    try:
        for name in ("mon", "osd", "rgw"):
            (folder / name).mkdir()
        values = {"fsid": fsid, "mon": mon, "port": port, "folder": folder}
        values |= {"num_bytes": num_bytes, "host": host}
        (folder / "ceph.conf").write_text(CONFIG.format(**values))
        address, monmap = f"[v2:127.0.0.1:{mon}]", str(folder / "monmap")
        run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, monmap)
        run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap)
        start("ceph-mon", "-i", "a")
        run("ceph", "osd", "create", osd, "0")  # by the same name as below, or it never comes up
        run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        start("ceph-osd", "-i", "0")
        user = ("--uid=test", "--display-name=test", f"--access-key={KEY}", f"--secret={SECRET}")
        run("radosgw-admin", "user", "create", *user)
        start("radosgw", "-n", "client.rgw")
        _wait_for(f"http://127.0.0.1:{port}/")
        client(port).create_bucket(Bucket=BUCKET)
        yield port
    finally:
        for server in reversed(servers):
            server.kill()
            server.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait_for(address: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            assert time.monotonic() < deadline, "the gateway did not start"
            time.sleep(0.1)


def client(port: int):
    """boto3's own client, to look behind what is tested."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
        config=Config(request_checksum_calculation="when_required"),
    )
