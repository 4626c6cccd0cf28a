"""Which addresses may be contacted: checked on every URL, every redirect and every look-up.

A URL is checked before a request is made (scheme, userinfo, port, literal addresses, which bypass
aiohttp's resolver); a name is checked when it is resolved, and the socket connects to the very
address that was checked, so a name that changes its address between two look-ups gains nothing.
Last, no socket is opened to an address that none of these checks let pass, whatever aiohttp read
in a URL that we did not.
"""

import ipaddress
import re
import socket
from fnmatch import fnmatchcase
from urllib.parse import SplitResult, urlsplit

from aiohappyeyeballs import AddrInfoType
from aiohttp.abc import AbstractResolver, ResolveResult

from pipeline.images.config import CrawlConfig
from pipeline.images.resolver import NameNotFoundError, as_result

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
"""All of IPv6 that is the public internet. Outside: IPv4-mapped, -compatible and -translated
forms, NAT64 (64:ff9b::/96, 64:ff9b:1::/48), private, link-local, site-local, multicast."""

DENIED = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT, and some clouds' metadata
        "168.63.129.16/32",  # a cloud's metadata on a public address
        "192.0.0.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "240.0.0.0/4",
        "2001::/23",  # Teredo and other protocol assignments
        "2001:db8::/32",
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation, unknown to older standard libraries
    )
)
"""Denied by name, on top of what the standard library calls not global."""

NEVER_PUBLIC = (".invalid", ".test", ".example", ".localhost", ".local", ".onion", ".alt")
"""Endings that no public name server answers for (RFC 6761, 6762, 7686, 9476); none is asked."""

NUMERIC_LABEL = re.compile(r"\d+|0x[0-9a-f]*")
DEFAULT_PORTS = {"http": 80, "https": 443}


class RefusedAddressError(OSError):
    """An address that this crawl may not contact."""


class BadUrlError(Exception):
    """A URL that is none, or not of the web."""


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet and reaches nothing else by translation."""
    if isinstance(address, ipaddress.IPv6Address) and address not in GLOBAL_UNICAST:
        return False
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    return not any(address in network for network in DENIED if network.version == address.version)


class NetworkGuard:
    """Answers whether a URL, and whether an address behind a name, may be contacted."""

    def __init__(self, config: CrawlConfig) -> None:
        """Read the allowed ports, the allowed private hosts and the mapped names."""
        self._ports = frozenset(config.ports)
        self._private = frozenset(host.lower() for host in config.allow_private_hosts)
        self._mapped = {
            pattern.lower(): target for pattern, target in config.execution.resolve.items()
        }
        self._let_pass: set[str] = set()
        """Addresses that are not public and were allowed under the name that was asked for."""

    def check_url(self, url: str) -> SplitResult:
        """Refuse what may not be contacted before anything is sent.

        Returns:
            The parts of the URL.

        Raises:
            BadUrlError: No http or https URL with a host.
            RefusedAddressError: Userinfo, a port that is not allowed, or a literal address that
                is not public (whatever its spelling).
        """
        parts, host, port = _split(url)
        if parts.username is not None or parts.password is not None:
            raise RefusedAddressError(f"{host}: URLs with a user name are refused")
        if self.mapped(host) is not None:
            return parts
        if port not in self._ports and f"{host}:{port}" not in self._private:
            raise RefusedAddressError(f"{host}:{port}: allowed ports are {sorted(self._ports)}")
        literal = _literal(host)
        if literal is not None and not self.allows(host, port, literal):
            raise RefusedAddressError(f"{host} is not a public address")
        return parts

    def allows(self, host: str, port: int, address: Address) -> bool:
        """Whether ``address``, found for ``host``, may be contacted."""
        if host in self._private or f"{host}:{port}" in self._private:
            self._let_pass.add(str(address))
            return True
        return is_public(address)

    def open_socket(self, address: AddrInfoType) -> socket.socket:
        """A socket for an address that is about to be connected to.

        Raises:
            RefusedAddressError: No check let it pass.
        """
        family, kind, proto, _, where = address
        found = ipaddress.ip_address(str(where[0]).partition("%")[0])
        if str(found) not in self._let_pass and not is_public(found):
            raise RefusedAddressError(f"{found} was let pass by no check")
        return socket.socket(family=family, type=kind, proto=proto)

    def may_exist(self, host: str, port: int) -> bool:
        """Whether a name can be one of the public web, or is one that the configuration allows."""
        if host in self._private or f"{host}:{port}" in self._private:
            return True
        return "." in host and not host.endswith(NEVER_PUBLIC)

    def mapped(self, host: str) -> tuple[str, int] | None:
        """The ip and port that stand in for a host name, if the configuration names one."""
        for pattern, target in self._mapped.items():
            if fnmatchcase(host, pattern):
                ip, _, port = target.rpartition(":")
                address = str(ipaddress.ip_address(ip.strip("[]")))
                self._let_pass.add(address)
                return address, int(port)
        return None


def _split(url: str) -> tuple[SplitResult, str, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise BadUrlError(f"not a URL: {error}") from error
    if parts.scheme not in DEFAULT_PORTS or not host:
        raise BadUrlError("only http and https URLs with a host are fetched")
    return parts, host.lower().rstrip("."), port or DEFAULT_PORTS[parts.scheme]


def _literal(host: str) -> Address | None:
    """The address that a host *is*, or None for a name.

    Raises:
        RefusedAddressError: A host that ends in a number but is no dotted address: resolvers read
            ``127.1``, ``0177.0.0.1`` and ``2130706433`` as addresses, each in its own way.
    """
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError as error:
        if NUMERIC_LABEL.fullmatch(host.rsplit(".", 1)[-1]):
            raise RefusedAddressError(f"{host} is an address in an unusual spelling") from error
        return None


class GuardedResolver(AbstractResolver):
    """Resolves names for aiohttp; every address of the answer must be allowed."""

    def __init__(self, guard: NetworkGuard, resolver: AbstractResolver) -> None:
        """Ask ``resolver`` and check what it says with ``guard``."""
        self._guard, self._resolver = guard, resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Addresses to connect to.

        Raises:
            NameNotFoundError: The name has no address.
            NameServerError: It could not be found out.
            RefusedAddressError: One of its addresses may not be contacted.
        """
        name = host.lower().rstrip(".")
        target = self._guard.mapped(name)
        if target is not None:
            return [as_result(host, *target)]
        if not self._guard.may_exist(name, port):
            raise NameNotFoundError(f"{host} is no name of the public web")
        answers = await self._resolver.resolve(host, port, family)
        for answer in answers:
            address = ipaddress.ip_address(answer["host"].partition("%")[0])
            if not self._guard.allows(name, port, address):
                raise RefusedAddressError(f"{host} resolves to {address}")
        return answers

    async def close(self) -> None:
        """Close the resolver behind."""
        await self._resolver.close()
