"""One request to a bucket, repeated while its failure may pass; errors by what cures them.

Endpoint, region and credentials are those of the AWS tools: environment, ``~/.aws`` files, roles.
Checksums are sent where S3 demands them and nowhere else: trailing ones, the libraries' own
choice, are refused by many stores on premises (HTTP 411), and manifests hold hashes of their own.
"""

import errno
import os
import random
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)

from pipeline.errors import ConfigError, StorageError

ATTEMPTS = 8
"""Of one request, where ``AWS_MAX_ATTEMPTS`` does not say otherwise; their pauses add up to 52 s at
most."""
PAUSE_S, LONGEST_PAUSE_S = 0.5, 20.0
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 5.0, 30.0
CONNECTIONS = 32
PASSING = frozenset({429, 500, 502, 503, 504})
PASSING_CODES = frozenset({"RequestTimeout", "SlowDown", "ThrottlingException", "InternalError"})
ABSENT = frozenset({"404", "NoSuchKey", "NoSuchUpload", "NotFound"})
UNMET = frozenset({"412", "PreconditionFailed", "ConditionalRequestConflict"})
REFUSED = {
    "RequestTimeTooSkewed": "set this machine's clock",
    "NoSuchBucket": "create the bucket, or correct its name",
    **dict.fromkeys(
        ("403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"),
        "name credentials that may do this: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
        "AWS_PROFILE",
    ),
}
"""Codes that no repetition cures, and what does."""
_T = TypeVar("_T")


@lru_cache(maxsize=1)
def client(pid: int) -> Any:  # noqa: ANN401 - boto3 makes its classes at run time
    """The one client of all threads of a process; it asks once: repeating is done here.

    Args:
        pid: Of this process: its connections are nobody else's.
    """
    del pid  # the cache's key
    return Session().client(
        "s3",
        config=Config(
            retries={"total_max_attempts": 1},
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            max_pool_connections=CONNECTIONS,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def patiently(path: str, call: Callable[[], _T]) -> _T:
    """Call until it succeeds, fails for good, or has failed too often.

    Args:
        path: What it is about: bucket and key.
        call: One request, and the reading of its answer; repeating it is harmless.

    Raises:
        FileNotFoundError: There is no such object.
        FileExistsError: A condition of the request is not met.
        ConfigError: No such bucket, no credentials, or others than needed.
        StorageError: The store does not answer, or refuses for another reason.
    """
    attempts = max(1, int(os.environ.get("AWS_MAX_ATTEMPTS", ATTEMPTS)))
    for attempt in range(attempts):
        try:
            return call()
        except (BotoCoreError, ClientError) as error:
            if not _passes(error):
                raise _explained(error, path) from error
            if attempt + 1 == attempts:
                raise StorageError(
                    f"s3://{path}: {attempts} attempts failed, the last with: {_said(error)}; the "
                    "same command goes on later"
                ) from error
        time.sleep(random.uniform(0, min(LONGEST_PAUSE_S, PAUSE_S * 2**attempt)))
    raise AssertionError


def code_of(error: BotoCoreError | ClientError) -> str:
    """S3's name of the error; an answer without a body has the status in its place."""
    return error.response["Error"].get("Code", "") if isinstance(error, ClientError) else ""


def _passes(error: BotoCoreError | ClientError) -> bool:
    if isinstance(error, ClientError):
        status = error.response["ResponseMetadata"].get("HTTPStatusCode")
        return status in PASSING or code_of(error) in PASSING_CODES
    return isinstance(error, HTTPClientError | IncompleteReadError)


def _explained(error: BotoCoreError | ClientError, path: str) -> Exception:
    code = code_of(error)
    if code in ABSENT:
        return FileNotFoundError(errno.ENOENT, "no such object", f"s3://{path}")
    if code in UNMET:
        return FileExistsError(errno.EEXIST, "written by somebody else", f"s3://{path}")
    if isinstance(error, NoCredentialsError | PartialCredentialsError | ProfileNotFound):
        return ConfigError(f"s3://{path}: {error}; {REFUSED['AccessDenied']}")
    if code in REFUSED:
        return ConfigError(f"s3://{path}: {_said(error)}; {REFUSED[code]}")
    return StorageError(f"s3://{path}: {_said(error)}")


def _said(error: BotoCoreError | ClientError) -> str:
    """The store's own words; what boto3 makes of them speaks of attempts that are not its own."""
    message = error.response["Error"].get("Message") if isinstance(error, ClientError) else ""
    return f"{code_of(error)} {message or ''}".strip() or str(error)


def split(path: str) -> dict[str, str]:
    """Bucket and key, as requests name them.

    Raises:
        ConfigError: Credentials stand before the bucket.
    """
    bucket, _, key = path.partition("/")
    if "@" in bucket:
        raise ConfigError(
            "an s3:// address holds credentials; name them by AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    return {"Bucket": bucket, "Key": key}
