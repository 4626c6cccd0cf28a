"""Read an answer's body within limits, whatever its headers claim.

aiohttp undoes gzip and deflate piece by piece, each piece bounded, so that the limit here is one of
decoded bytes and a bomb ends at it.
"""

import asyncio

import aiohttp

from pipeline.images import failures, site_rules
from pipeline.images.config import CrawlConfig
from pipeline.images.decode import sniff

LARGE_BODY_BYTES = 1 << 20
MAX_ETAG_CHARS = 512
UNTYPED = frozenset({"", "application/octet-stream", "binary/octet-stream"})


class BodyReader:
    """Reads pictures; few of them may be large at once."""

    def __init__(self, config: CrawlConfig) -> None:
        """Read the limits."""
        self._config = config
        self._large = asyncio.Semaphore(config.execution.max_large_transfers)

    async def picture(self, response: aiohttp.ClientResponse) -> tuple[bytes, bool]:
        """The body, and whether it holds one of the places for large ones.

        Raises:
            FailedError: It is no picture that we may keep.
        """
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if not kind.startswith("image/") and kind not in UNTYPED:
            raise failures.FailedError("wrong_content_type")
        limit = self._config.max_bytes
        encoded = response.headers.get("Content-Encoding", "identity").lower() != "identity"
        if not encoded and (response.content_length or 0) > limit:
            raise failures.FailedError("too_many_bytes")
        parts: list[bytes] = []
        num_bytes, is_large = 0, False
        try:
            async for part in response.content.iter_any():
                num_bytes += len(part)
                if num_bytes > limit:
                    raise failures.FailedError("too_many_bytes")
                if num_bytes > LARGE_BODY_BYTES and not is_large:
                    await self._large.acquire()
                    is_large = True
                parts.append(part)
            body = b"".join(parts)
            if sniff(body) is None:
                raise failures.FailedError("wrong_content_type")
        except BaseException:
            if is_large:
                self._large.release()
            raise
        return body, is_large

    def release(self) -> None:
        """A large body was used and dropped."""
        self._large.release()


def check_opt_out(response: aiohttp.ClientResponse, product: str) -> None:
    """Obey the headers of an answer of any status.

    Raises:
        FailedError: They opt the picture out.
    """
    headers = response.headers
    robots = headers.getall("X-Robots-Tag", [])
    reserved = any(site_rules.tdm_reserved(each) for each in headers.getall("tdm-reservation", []))
    if reserved or site_rules.opted_out(robots, product):
        raise failures.FailedError(failures.OPTED_OUT_IMAGE)


def etag_of(response: aiohttp.ClientResponse) -> str | None:
    """The ETag of an answer; None where it has none that could be sent back."""
    etag = response.headers.get("ETag")
    if etag is None or len(etag) > MAX_ETAG_CHARS or not etag.isascii() or not etag.isprintable():
        return None
    return etag


async def read_site_file(response: aiohttp.ClientResponse) -> bytes:
    """The beginning of a file of a site; nothing of an answer other than 200."""
    parts, left = [], site_rules.MAX_FILE_BYTES
    if response.status == 200:
        async for part in response.content.iter_any():
            parts.append(part[:left])
            left -= len(parts[-1])
            if left == 0:
                break
    return b"".join(parts)
