import asyncio
import ipaddress
import socket

import pytest
from aiohttp.abc import AbstractResolver

from pipeline.images.config import CrawlConfig
from pipeline.images.network_guard import (
    BadUrlError,
    GuardedResolver,
    NetworkGuard,
    RefusedAddressError,
    is_public,
)

AGENT = "TestBot/1.0 (+https://test.example/bot)"

NOT_PUBLIC = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "203.0.113.9",
    "224.0.0.1",
    "233.252.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::8.8.8.8",
    "::ffff:10.0.0.1",
    "::ffff:8.8.8.8",
    "64:ff9b::a00:1",
    "64:ff9b::808:808",
    "64:ff9b:1::1",
    "100::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:db8::1",
    "2002:a00:1::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_inside_networks_or_behind_translation_are_not_public(address):
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "2a00:1450::1"])
def test_ordinary_addresses_are_public(address):
    assert is_public(ipaddress.ip_address(address))


def guard(**fields):
    return NetworkGuard(CrawlConfig(user_agent=AGENT, **fields))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.jpg",
        "http://127.1/a.jpg",
        "http://0x7f000001/a.jpg",
        "http://0x7f.0.0.1/a.jpg",
        "http://2130706433/a.jpg",
        "http://0177.0.0.1/a.jpg",
        "http://127.0.0.1./a.jpg",
        "http://10.0.0.1/a.jpg",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/a.jpg",
        "http://[::ffff:10.0.0.1]/a.jpg",
        "http://[64:ff9b::7f00:1]/a.jpg",
        "http://user:word@shop.com/a.jpg",
        "http://user@8.8.8.8/a.jpg",
        "http://shop.com:22/a.jpg",
        "http://shop.com:8080/a.jpg",
        "https://8.8.8.8:6379/a.jpg",
    ],
)
def test_urls_that_lead_inside_are_refused_before_anything_is_sent(url):
    with pytest.raises(RefusedAddressError):
        guard().check_url(url)


@pytest.mark.parametrize(
    "url",
    ["file:///etc/hostname", "data:image/png;base64,AA", "ftp://a.com/b", "http://", "http://[::1"],
)
def test_urls_that_are_not_of_the_web_are_bad(url):
    with pytest.raises(BadUrlError):
        guard().check_url(url)


@pytest.mark.parametrize(
    "url", ["http://shop.com/a.jpg", "https://8.8.8.8/a", "http://shop.com:443/", "http://1.com/a"]
)
def test_urls_of_the_public_web_pass(url):
    assert guard().check_url(url).geturl() == url


def test_a_private_host_with_its_port_passes_when_allowed_and_no_other_does():
    allowing = guard(allow_private_hosts=("127.0.0.1:8900",))
    assert allowing.check_url("http://127.0.0.1:8900/a.jpg").port == 8900
    for url in ("http://127.0.0.1:8901/a.jpg", "http://127.0.0.1/a", "http://127.0.0.2:8900/a"):
        with pytest.raises(RefusedAddressError):
            allowing.check_url(url)


class FixedResolver(AbstractResolver):
    """Answers one list of addresses after another."""

    def __init__(self, *answers):
        self.answers = list(answers)

    async def resolve(self, host, port=0, family=socket.AF_UNSPEC):
        return [
            {"hostname": host, "host": ip, "port": port, "family": family, "proto": 0, "flags": 0}
            for ip in self.answers.pop(0)
        ]

    async def close(self):
        pass


def resolve(resolver, host="shop.com"):
    return [answer["host"] for answer in asyncio.run(resolver.resolve(host, 80))]


def test_a_name_with_one_private_address_among_public_ones_is_refused():
    resolver = GuardedResolver(guard(), FixedResolver(["93.184.216.34", "10.0.0.1"]))
    with pytest.raises(RefusedAddressError, match=r"10\.0\.0\.1"):
        resolve(resolver)


def test_a_name_that_changes_its_address_is_checked_at_every_look_up():
    resolver = GuardedResolver(guard(), FixedResolver(["93.184.216.34"], ["127.0.0.1"]))
    assert resolve(resolver) == ["93.184.216.34"]
    with pytest.raises(RefusedAddressError):
        resolve(resolver)


def test_an_allowed_private_name_may_resolve_to_a_private_address():
    allowing = guard(allow_private_hosts=("lab.intern",))
    resolver = GuardedResolver(allowing, FixedResolver(["10.0.0.7"], ["10.0.0.7"]))
    assert resolve(resolver, "lab.intern") == ["10.0.0.7"]
    with pytest.raises(RefusedAddressError):
        resolve(resolver, "other.intern")


def test_mapped_names_are_answered_by_the_given_address_and_port_without_a_look_up():
    mapping = guard(execution={"resolve": {"*.example": "127.0.0.1:4711"}})
    mapping.check_url("http://shop.example/a.jpg")
    answers = asyncio.run(GuardedResolver(mapping, FixedResolver()).resolve("shop.example", 80))
    assert [(answer["host"], answer["port"]) for answer in answers] == [("127.0.0.1", 4711)]


@pytest.mark.parametrize("agent", ["", "TestBot/1.0", "Mozilla/5.0 (X11; Linux)", "(+https://a.b)"])
def test_a_user_agent_without_name_or_contact_is_refused(agent):
    with pytest.raises(ValueError, match="contact"):
        CrawlConfig(user_agent=agent)


def test_the_product_token_is_the_agents_first_word_in_lower_case():
    assert CrawlConfig(user_agent=AGENT).product == "testbot"
