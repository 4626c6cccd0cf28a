"""Name look-ups without threads, remembered as long as their answers live.

All A and AAAA records of a name are asked for at once (c-ares). A name that does not exist, or has
no address, is a final answer and remembered; a name server that failed or said nothing may do
better next time, and is asked again by the next look-up.
"""

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import aiodns
import pycares
from aiohttp.abc import AbstractResolver, ResolveResult

MAX_TTL_S = 300.0
TIMEOUT_S = 2.0
"""Of the first question to a name server; the second and last waits twice as long."""
NUM_TRIES = 2

FINAL = frozenset(
    {
        pycares.errno.ARES_ENODATA,
        pycares.errno.ARES_ENOTFOUND,
        pycares.errno.ARES_EBADNAME,
        pycares.errno.ARES_ENONAME,
    }
)
NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


class NameNotFoundError(OSError):
    """The name has no address, and that is the final word."""


class NameServerError(OSError):
    """Nobody could say; it may be possible later."""


@dataclass(frozen=True)
class _Answer:
    addresses: tuple[str, ...]
    ttl_s: float
    """How long the answer may be used."""
    problem: str | None = None
    final: bool = True


@dataclass
class _Known:
    answer: "asyncio.Task[_Answer]"
    until_s: float = float("inf")
    """Loop time; unlimited while the name servers are being asked."""


class CachingResolver(AbstractResolver):
    """Resolves names for aiohttp; answers are shared by all that ask."""

    def __init__(self, nameservers: Sequence[str] = (), max_ttl_s: float = MAX_TTL_S) -> None:
        """Ask ``nameservers`` (``ip`` or ``ip:port``); none stands for the system's own.

        Args:
            nameservers: Whom to ask.
            max_ttl_s: Answers are forgotten after this, however long they claim to live.
        """
        self._resolver = aiodns.DNSResolver(
            nameservers=list(nameservers) or None,
            timeout=TIMEOUT_S,
            tries=NUM_TRIES,
            # Without it, names would be tried below the machine's own domains as well.
            flags=pycares.ARES_FLAG_NOSEARCH,
        )
        self._max_ttl_s = max_ttl_s
        self._known: dict[str, _Known] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Every address of a name, of both families.

        Raises:
            NameNotFoundError: It has none.
            NameServerError: It could not be found out.
        """
        answer = await self._look_up(host.lower().rstrip("."))
        if answer.problem is not None:
            kind = NameNotFoundError if answer.final else NameServerError
            raise kind(f"{host}: {answer.problem}")
        return [as_result(host, address, port) for address in answer.addresses]

    async def close(self) -> None:
        """Stop asking."""
        await self._resolver.close()

    async def _look_up(self, name: str) -> _Answer:
        known = self._known.get(name)
        if known is None or known.until_s <= asyncio.get_running_loop().time():
            known = self._known[name] = _Known(asyncio.ensure_future(self._ask(name)))
        # Shielded: one picture's deadline must not take the answer from all others.
        answer = await asyncio.shield(known.answer)
        known.until_s = min(known.until_s, asyncio.get_running_loop().time() + answer.ttl_s)
        return answer

    async def _ask(self, name: str) -> _Answer:
        try:
            found = await self._resolver.getaddrinfo(
                name, family=socket.AF_UNSPEC, type=socket.SOCK_STREAM
            )
        except aiodns.error.DNSError as error:
            final = error.args[0] in FINAL
            return _Answer((), self._max_ttl_s if final else 0.0, str(error.args[-1]), final)
        addresses = dict.fromkeys(_text(node.addr[0]) for node in found.nodes)
        ttl_s = min((float(node.ttl) for node in found.nodes), default=0.0)
        return _Answer(tuple(addresses), min(max(ttl_s, 0.0), self._max_ttl_s))


def as_result(host: str, address: str, port: int) -> ResolveResult:
    """One address in aiohttp's form."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(
        hostname=host, host=address, port=port, family=family, proto=0, flags=NUMERIC
    )


def _text(address: str | bytes) -> str:
    return address.decode() if isinstance(address, bytes) else address
