"""Pictures of a source's own folder, read in place of being fetched.

Only addresses that ``urls.local`` made lead here, and only while a run's source is a folder
(``crawl.execution.local_root``). Nothing outside that folder is read: a link that leads out of it
is refused, and so is what is no regular file. What is read is decoded, filtered and hashed like
everything else.
"""

import time

from pipeline import storage
from pipeline.candidates import urls
from pipeline.images.decode import sniff
from pipeline.images.fetch import Fetched, Target


def is_local(target: Target) -> bool:
    """Whether a target is a file and not an address of the web."""
    return urls.local_path(target.url) is not None


def read_local(target: Target, root: str | None, max_bytes: int) -> Fetched:
    """Read one picture.

    Args:
        target: A ``file:///`` address.
        root: The folder, local or on an object store; None where the run has none.
        max_bytes: Longer files are not read.
    """
    started_s, clock = time.time(), time.monotonic()
    inside = urls.local_path(target.url)
    body: bytes | None = None
    reason: str | None = "refused_address"
    if inside is not None and root is not None:
        body, reason = _content(root, inside, max_bytes)
    return Fetched(
        key=target.key,
        url=target.url,
        body=body,
        drop_reason=reason,
        status=None,
        final_url=target.url,
        attempts=1,
        etag=None,
        started_s=started_s,
        duration_s=time.monotonic() - clock,
    )


def _content(root: str, inside: str, max_bytes: int) -> tuple[bytes | None, str | None]:
    """The file's bytes, or why there are none."""
    uri = storage.contained(root, inside)
    if uri is None:
        return None, "refused_address"
    try:
        with storage.open_for_read(uri) as file:
            body = file.read(max_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None, "missing_file"
    except PermissionError:
        return None, "refused_address"
    if len(body) > max_bytes:
        return None, "too_many_bytes"
    return (body, None) if sniff(body) is not None else (None, "wrong_content_type")
