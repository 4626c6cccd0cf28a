"""Why a picture was not fetched, and whether the reason may pass.

======================  =========  ================================================================
drop reason             may pass   when
======================  =========  ================================================================
``invalid_url``         no         no http or https URL, also as the target of a redirect
``refused_address``     no         userinfo, port or address that may not be contacted, on any hop
``dns_error``           SERVFAIL   the name has no address (final), or nobody could say (may pass)
``tls_error``           no         no trust in the certificate, or no common protocol
``connection_error``    yes        no connection
``connection_lost``     yes        the connection was reset or closed before an answer
``invalid_response``    no         what answered does not speak HTTP
``broken_body``         yes        the body ended early, also by a reset, or its coding is damaged
``timeout``             yes        the deadline over all requests of the picture passed
``http_error``          408, 5xx   any other status than 200
``host_busy``           yes        429 or 503, or the host asked for a longer pause than we wait
``too_many_bytes``      no         longer than the limit, whatever the headers say
``too_many_redirects``  no         more than the limit
``wrong_content_type``  no         no picture by its header or by its first bytes
``robots_disallowed``   no         robots.txt forbids it
``robots_unreachable``  yes        robots.txt could not be read, which forbids all (RFC 9309)
``opted_out_image``     no         the answer's own headers opt the picture out
``opted_out_site``      no         /.well-known/tdmrep.json reserves it
``tdmrep_unreachable``  yes        tdmrep.json could not be read: it might have reserved it
``removed``             no         somebody asked for its removal (``jobs.select --remove``)
``over_host_budget``    no         the host had all the requests, or all the time, of one crawl
``unchanged``           no         an earlier crawl holds these bytes already
``sha256_mismatch``     no         the bytes are not those that the source states
======================  =========  ================================================================

What may pass is tried again within the deadline, and once more in a later pass; nothing else is.
"""

import errno
import time
from datetime import UTC
from email.utils import parsedate_to_datetime

import aiohttp

from pipeline.images.network_guard import RefusedAddressError
from pipeline.images.resolver import NameServerError

REDIRECTS = frozenset({301, 302, 303, 307, 308})
BUSY = frozenset({429, 503})
TRANSIENT = frozenset({408, 425, 500, 502, 504}) | BUSY

LOST = frozenset({errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE})

HOST_BUSY = "host_busy"
OVER_HOST_BUDGET = "over_host_budget"
OPTED_OUT_IMAGE = "opted_out_image"
OPTED_OUT_SITE = "opted_out_site"
UNCHANGED = "unchanged"
SHA256_MISMATCH = "sha256_mismatch"


class FailedError(Exception):
    """One attempt failed."""

    def __init__(
        self, reason: str, *, transient: bool = False, retry_at_s: float | None = None
    ) -> None:
        """State why.

        Args:
            reason: The drop reason.
            transient: Whether it may pass.
            retry_at_s: Unix time before which the host does not want to be asked again.
        """
        super().__init__(reason)
        self.reason, self.transient, self.retry_at_s = reason, transient, retry_at_s
        self.of_site = False
        """Whether all pictures of the site share it, so that another attempt says the same."""


def of_status(status: int, retry_after: str | None) -> FailedError:
    """The failure behind a status that is neither 200 nor a redirect.

    Args:
        status: HTTP status.
        retry_after: The Retry-After header, if there was one.
    """
    if status not in TRANSIENT:
        return FailedError("http_error")
    reason = HOST_BUSY if status in BUSY else "http_error"
    return FailedError(reason, transient=True, retry_at_s=retry_at_s(retry_after))


def of_error(error: Exception) -> FailedError:
    """The failure behind what aiohttp, the resolver or the guard raised."""
    cause = getattr(error, "os_error", error)
    if isinstance(cause, RefusedAddressError):
        return FailedError("refused_address")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return FailedError("dns_error", transient=isinstance(cause, NameServerError))
    if isinstance(error, OSError) and error.errno in LOST:
        return FailedError("connection_lost", transient=True)
    for kinds, reason, transient in _KINDS:
        if isinstance(error, kinds) or isinstance(cause, kinds):
            return FailedError(reason, transient=transient)
    return FailedError("connection_error", transient=True)


_KINDS: tuple[tuple[tuple[type[Exception], ...], str, bool], ...] = (
    ((ValueError,), "invalid_url", False),
    ((aiohttp.ClientSSLError,), "tls_error", False),
    ((aiohttp.ClientPayloadError,), "broken_body", True),
    ((aiohttp.ClientResponseError,), "invalid_response", False),
    ((aiohttp.ServerDisconnectedError,), "connection_lost", True),
    ((aiohttp.ClientError, OSError), "connection_error", True),
)
"""The first that fits counts: aiohttp's classes overlap (``InvalidURL`` is a ValueError too)."""


def retry_at_s(retry_after: str | None) -> float | None:
    """The Unix time that a Retry-After header names, in seconds from now or as a date."""
    if retry_after is None:
        return None
    value = retry_after.strip()
    if value.isascii() and value.isdigit():
        return time.time() + min(float(value), _FOREVER_S)
    try:
        date = parsedate_to_datetime(value)
        return (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


_FOREVER_S = 1e9
