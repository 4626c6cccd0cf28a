"""What a cluster stands on: a bucket, and MLflow on PostgreSQL with a password before it."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.network import Network
from tests.mlflow_server import Server
from tests.object_store import Store
from tests.postgres import database
from tests.rados_gateway import BUCKET, KEY, SECRET, environment, gateway

USER = "trainer"


@dataclass(frozen=True)
class Services:
    """What runs, and how it is reached."""

    host: str
    """Where nodes reach this machine."""
    port: int
    """Of the bucket's gateway."""
    tracking: str
    """Address of the tracking server."""
    database: str
    """Address of its PostgreSQL."""
    password: str
    """Of its user."""
    credentials: Path
    """The bucket's, in a file as the AWS tools read it."""

    @property
    def machine(self) -> dict[str, str]:
        """Secrets that machines have in their environment, as from a Kubernetes Secret."""
        return {
            "MLFLOW_TRACKING_USERNAME": USER,
            "MLFLOW_TRACKING_PASSWORD": self.password,
        }

    @property
    def submitted(self) -> dict[str, str]:
        """What a submission says: names and places, and no secret."""
        return {
            "AWS_ENDPOINT_URL": f"http://{self.host}:{self.port}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_SHARED_CREDENTIALS_FILE": str(self.credentials),
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def store(self, name: str) -> Store:
        """A folder of the bucket."""
        return Store(self.port, name)


@contextmanager
def services(folder: Path, network: Network | None = None) -> Iterator[Services]:
    """All of them, for as long as the block runs.

    Args:
        folder: For the tracking server's files, and the bucket's credentials.
        network: Where nodes have addresses of their own.
    """
    host = network.host if network else "127.0.0.1"
    credentials, password = folder / "credentials", secrets.token_hex(24)
    credentials.write_text(
        f"[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
    )
    everywhere = {"host": "0.0.0.0"} if network else {}
    with gateway(**everywhere) as port, database() as address:
        server = Server(
            folder,
            host,
            STORE=address,
            ARTIFACTS=f"s3://{BUCKET}/mlflow",
            MLFLOW_AUTH_ADMIN_USERNAME=USER,
            MLFLOW_AUTH_ADMIN_PASSWORD=password,
            # MLflow's server speaks to the bucket by the AWS library's own settings.
            AWS_REQUEST_CHECKSUM_CALCULATION="when_required",
            AWS_RESPONSE_CHECKSUM_VALIDATION="when_required",
            **environment(port),
        )
        try:
            server.start()
            yield Services(host, port, server.address, address, password, credentials)
        finally:
            server.stop()
