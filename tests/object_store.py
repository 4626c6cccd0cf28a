"""What tests see of a bucket: through the pipeline's own settings, and behind its back."""

import io
import os
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from tests import gcs_server
from tests.rados_gateway import BUCKET, client


class Store:
    """A folder of the gateway's bucket."""

    part_bytes, picture_px = 1 << 14, 48

    def __init__(self, port: int, name: str) -> None:
        self.uri, self._prefix = f"s3://{BUCKET}/{name}", f"{name}/"
        self._client = client(port)

    def objects(
        self, folder: str = "", wanted: Callable[[str], bool] = lambda name: True
    ) -> dict[str, bytes]:
        """Content of every (wanted) object below a folder, by its name in it."""
        get, prefix = self._client.get_object, self._prefix + folder
        return {
            name: get(Bucket=BUCKET, Key=prefix + name)["Body"].read()
            for name in filter(wanted, self.names(folder))
        }

    def names(self, folder: str = "") -> list[str]:
        """Names of the objects below a folder, in it."""
        prefix = self._prefix + folder
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
        return [key.removeprefix(prefix) for key in keys]

    def pending(self) -> list[str]:
        """Keys of uploads that nobody has ended."""
        found = self._client.list_multipart_uploads(Bucket=BUCKET, Prefix=self._prefix)
        return [upload["Key"] for upload in found.get("Uploads", ())]


class GcsStore:
    """The same of a folder of the bucket that speaks Google's language."""

    part_bytes, picture_px = gcs_server.QUANTUM, 256

    def __init__(self, bucket: gcs_server.Bucket, name: str) -> None:
        self.uri, self._prefix = f"gs://{gcs_server.BUCKET}/{name}", f"{name}/"
        self._bucket = bucket

    def objects(
        self, folder: str = "", wanted: Callable[[str], bool] = lambda name: True
    ) -> dict[str, bytes]:
        """Content of every (wanted) object below a folder, by its name in it."""
        objects, prefix = self._bucket.objects, self._prefix + folder
        return {n: objects[prefix + n].content for n in filter(wanted, self.names(folder))}

    def names(self, folder: str = "") -> list[str]:
        """Names of the objects below a folder, in it."""
        prefix = self._prefix + folder
        found = sorted(self._bucket.objects)
        return [name.removeprefix(prefix) for name in found if name.startswith(prefix)]

    def pending(self) -> list[str]:
        """Names of uploads that nobody has ended."""
        found = self._bucket.sessions.values()
        return [s.name for s in found if not s.ended and s.name.startswith(self._prefix)]

    def forget_uploads(self) -> None:
        """As the store does after a week."""
        self._bucket.sessions.clear()


def files(folder: str) -> dict[str, bytes]:
    """Content of every file below a local folder, by its name in it."""
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, folder)] = file.read()
    return found


def content(found: Mapping[str, bytes]) -> dict[str, bytes]:
    """Without what tells of an attempt and not of the data."""
    circumstances = ("circumstance.json", "finished.json", "crawl_log/")
    return {name: body for name, body in found.items() if not name.startswith(circumstances)}


def pictures(count: int, px: int) -> dict[str, bytes]:
    """Pictures of noise, no two alike, by file name."""
    found = {}
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 256, (px, px, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, "JPEG", quality=90)
        found[f"{number:03d}.jpg"] = buffer.getvalue()
    return found
