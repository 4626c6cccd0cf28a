"""Buckets of Google Cloud Storage, by Google's own client, which repeats what may pass.

Credentials are the machine's own (``GOOGLE_APPLICATION_CREDENTIALS``, ``gcloud``, a workload
identity); ``STORAGE_EMULATOR_HOST`` names another server, which is asked without any.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any

import urllib3
from google.api_core.exceptions import GoogleAPICallError, GoogleAPIError, RetryError
from google.auth.exceptions import GoogleAuthError, TransportError
from google.cloud.storage import Blob, Client
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.fileio import BlobWriter
from google.cloud.storage.retry import DEFAULT_RETRY
from requests import RequestException, codes
from requests.adapters import HTTPAdapter

from pipeline.errors import ConfigError, StorageError
from pipeline.stores import uploads
from pipeline.stores.files import BucketFileSystem
from pipeline.stores.uploads import Upload

RETRY_S = 60.0
"""A request is repeated for so long, pauses included, before its failure is told."""
ABORT_S = 5.0
"""The same of an upload that shall be forgotten."""
PAUSE_S, LONGEST_PAUSE_S = 0.5, 20.0
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 5.0, 30.0
CONNECTIONS = 32
CREDENTIALS = (
    "name credentials that may do this: GOOGLE_APPLICATION_CREDENTIALS, or the service account of "
    "this machine"
)
REFUSED = (codes.unauthorized, codes.forbidden)
GONE = (codes.not_found, codes.gone)
FAILURES = (
    *(GoogleAPIError, GoogleAuthError, InvalidResponse, DataCorruption),
    *(RequestException, urllib3.exceptions.HTTPError, ConnectionError),
)


@lru_cache(maxsize=1)
def client(pid: int) -> Client:
    """The one client of all threads of a process.

    Args:
        pid: Of this process: its connections are nobody else's.

    Raises:
        ConfigError: This machine has no credentials.
    """
    del pid  # the cache's key
    # The client would ask for each bucket's properties beside the work, which needs a right more.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    with _explained(""):
        found = Client(project=None)
    session = found._http
    for scheme in ("http://",) if session.is_mtls else ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=CONNECTIONS))
    return found


class GCSFileSystem(BucketFileSystem):
    """All buckets that the credentials reach."""

    protocol = ("gs", "gcs")

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - fsspec's
        """Ask nothing yet."""
        super().__init__(**options)
        self.client = client(os.getpid())

    def size_of(self, path: str) -> int:
        """Bytes of an object."""
        blob = self._blob(path)
        with _explained(path):
            blob.reload(**_patience())
        return int(blob.size or 0)

    def pages(self, path: str, *, flat: bool, limit: int) -> Iterator[tuple[list[str], list[Any]]]:
        """Folders and objects below a folder."""
        bucket, _, folder = _checked(path).partition("/")
        asked = {"prefix": folder and folder + "/", "delimiter": None if flat else "/"}
        fields = "items(name,size),prefixes,nextPageToken"
        with _explained(path):
            found = self.client.list_blobs(
                bucket, **asked, page_size=limit, fields=fields, **_patience()
            )
            for page in found.pages:
                folders = [f"{bucket}/{prefix}" for prefix in page.prefixes]
                yield folders, [(f"{bucket}/{blob.name}", int(blob.size)) for blob in page]

    def range_of(self, path: str, start: int, end: int) -> bytes:
        """Bytes of an object."""
        with _explained(path):
            try:
                return _content(self._blob(path), start=start, end=end - 1)
            except GoogleAPICallError as error:
                if error.code == codes.requested_range_not_satisfiable:
                    return b""  # what an empty object has instead of bytes
                raise

    def new_object(self, path: str) -> Upload:
        """A new object."""
        return _Upload(self._blob(path), path)

    def read_version(self, path: str) -> tuple[bytes, str]:
        """A small object and the number of its generation."""
        blob = self._blob(path)
        with _explained(path):
            return _content(blob), str(blob.generation)

    def put_if(self, path: str, value: bytes, version: str | None) -> str:
        """Put under a condition on the generation that is there; 0 is none."""
        blob, generation = self._blob(path), int(version or 0)
        with _explained(path):
            blob.upload_from_string(value, if_generation_match=generation, **_patience())
        return str(blob.generation)

    def rm_file(self, path: str) -> None:
        """Delete an object, if it is there."""
        path = str(self._strip_protocol(path))
        with suppress(FileNotFoundError), _explained(path):
            self._blob(path).delete(**_patience())

    def abort_uploads(self, path: str, *, below: bool = True) -> int:
        """Nothing: nobody can list them, and after a week the store forgets them."""
        return 0

    def _blob(self, path: str) -> Blob:
        bucket, _, name = _checked(path).partition("/")
        return self.client.bucket(bucket).blob(name)


class _Upload(Upload):
    """An object by a resumable upload, whose parts nobody sees before the last one."""

    def __init__(self, blob: Blob, path: str) -> None:
        super().__init__(path)
        self._blob = blob
        self._writer: Any = None  # Google's writer of bytes says that it takes text

    def _put(self, content: bytes) -> None:
        with _explained(self.name):
            self._blob.upload_from_string(content, **_patience())

    def _send(self, content: bytes) -> None:
        with _explained(self.name):
            if self._writer is None:
                self._writer = _Writer(self._blob, chunk_size=uploads.PART_BYTES, **_patience())
            with self._kept():
                self._writer.write(content)

    def _join(self) -> None:
        with _explained(self.name), self._kept():
            self._writer.close()

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Tell an upload of which the store has lost a part, or all of it."""
        try:
            yield
        except (ValueError, InvalidResponse) as error:
            if isinstance(error, InvalidResponse) and _answer(error)[0] not in GONE:
                raise
            raise StorageError(
                f"gs://{self.name}: the store has lost a part of this upload; the same command "
                "goes on later"
            ) from error

    def _abort(self) -> None:
        # Not by the writer's own terminate(), which names another address than the upload's. Where
        # the store is away nobody sees what it has, and in a week it forgets it.
        begun = getattr(self._writer, "_upload_and_transport", None)
        if begun:
            upload, transport = begun
            how = _patience()
            delete = how["retry"].with_timeout(min(ABORT_S, RETRY_S))(transport.delete)
            with suppress(*FAILURES):
                delete(upload.resumable_url, timeout=how["timeout"])


class _Writer(BlobWriter):
    """Google's, which would publish what it has when it is forgotten."""

    def __del__(self) -> None:
        """A writer that was forgotten publishes nothing."""


def _patience() -> dict[str, Any]:
    """How requests are repeated, and when an answer no longer comes."""
    pauses = DEFAULT_RETRY.with_delay(initial=PAUSE_S, maximum=LONGEST_PAUSE_S)
    return {
        "retry": pauses.with_timeout(RETRY_S),
        "timeout": (CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
    }


def _content(blob: Blob, **part: int) -> bytes:
    """Bytes as they lie there, also of objects that say they are gzipped."""
    how: dict[str, Any] = {"raw_download": True, "checksum": None, **part, **_patience()}
    return blob.download_as_bytes(**how)


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Turn the client's errors into ours, by what cures them."""
    try:
        yield
    except FAILURES as failure:
        error = failure.cause if isinstance(failure, RetryError) else failure
        status, said = _answer(error)
        told = f"gs://{path}: {said}"
        if status == codes.not_found and "bucket does not exist" in said:
            raise ConfigError(f"{told}; create the bucket, or correct its name") from error
        if status == codes.not_found:
            raise FileNotFoundError(errno.ENOENT, "no such object", f"gs://{path}") from error
        if status == codes.precondition_failed:
            raise FileExistsError(
                errno.EEXIST, "somebody else has written", f"gs://{path}"
            ) from error
        if status in REFUSED or (isinstance(error, GoogleAuthError) and not _passes(error)):
            raise ConfigError(f"{told}; {CREDENTIALS}") from error
        if isinstance(failure, RetryError):
            told = (
                f"gs://{path}: all requests of {RETRY_S:g} s failed, the last with: {said}; the "
                "same command goes on later"
            )
        raise StorageError(told) from error


def _passes(error: GoogleAuthError) -> bool:
    """Whether a token was not to be had at this moment, rather than refused."""
    return error.retryable or any(isinstance(e, TransportError) for e in (error, *error.args))


def _answer(error: BaseException) -> tuple[int, str]:
    """HTTP's number (0 where no answer came) and what the store says, or else the client."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", 0)
    if response is None:
        return status, f"{type(error).__name__}: {error}"
    with suppress(ValueError, LookupError, TypeError):
        return status, response.json()["error"]["message"].rstrip(".")
    said = response.text.partition("\n")[0].rstrip(". ")
    return status, f"HTTP {status} {said}".strip()


def _checked(path: str) -> str:
    if "@" in path.partition("/")[0]:
        raise ConfigError(f"a gs:// address holds credentials; {CREDENTIALS}")
    return path
