import hashlib
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.candidates import urls

CANONICAL = {
    "http://example.com": "http://example.com/",
    "HTTP://Example.COM:80": "http://example.com/",
    "https://example.com:443/a": "https://example.com/a",
    "https://example.com:80/a": "https://example.com:80/a",
    "http://example.com:/a": "http://example.com/a",
    "http://example.com:0080/a": "http://example.com/a",
    "http://127.0.0.1:8900/a b.jpg": "http://127.0.0.1:8900/a%20b.jpg",
    "http://localhost/a": "http://localhost/a",
    "http://[::1]:80/a": "http://[::1]/a",
    "http://[0:0:0:0:0:0:0:1]:81/a": "http://[::1]:81/a",
    "http://example.com./a": "http://example.com/a",
    "http://my_host.example.com/a": "http://my_host.example.com/a",
    "http://bücher.example/ä.jpg": "http://xn--bcher-kva.example/%C3%A4.jpg",
    "http://BÜCHER.example/": "http://xn--bcher-kva.example/",
    "http://例え。jp/": "http://xn--r8jz45g.jp/",
    "https://example.com/a/./b/../c.jpg#top": "https://example.com/a/c.jpg",
    "https://example.com/../../a": "https://example.com/a",
    "https://example.com/a/..": "https://example.com/",
    "https://example.com/a/.": "https://example.com/a/",
    "https://example.com/a/%2E%2e/b": "https://example.com/b",
    "https://example.com/a//b": "https://example.com/a//b",
    "https://example.com/.hidden/..a": "https://example.com/.hidden/..a",
    "http://example.com/%7euser/a%2fb c.jpg": "http://example.com/~user/a%2Fb%20c.jpg",
    "http://example.com/100%.jpg": "http://example.com/100%25.jpg",
    "http://example.com/100%25.jpg": "http://example.com/100%25.jpg",
    "http://example.com/[1].jpg": "http://example.com/%5B1%5D.jpg",
    "http://example.com/a(1,2):b@c;d=e!.jpg": "http://example.com/a(1,2):b@c;d=e!.jpg",
    "http://example.com/a.jpg?B=%7e&a": "http://example.com/a.jpg?B=~&a",
    "http://example.com?x": "http://example.com/?x",
    "http://example.com/a?": "http://example.com/a?",
    "http://example.com/a?b/../c": "http://example.com/a?b/../c",
    "http://example.com/a?x=1|2#f?g": "http://example.com/a?x=1%7C2",
    "http:\\\\example.com\\a.jpg": "http://example.com/a.jpg",
    "http://good.example\\@evil.example/": "http://good.example/@evil.example/",
    " \thttp://example.com/a\n.jpg ": "http://example.com/a.jpg",
}

REFUSED = [
    "",
    "UNLIKELY",
    "a.jpg",
    "//example.com/a.jpg",
    "ftp://example.com/a.jpg",
    "file:///etc/hostname",
    "data:image/png;base64,AAAA",
    "javascript:alert(1)",
    "http:example.com/a",
    "http:///a",
    "http://",
    "http://user@example.com/",
    "http://user:password@example.com/",
    "http://good.example@evil.example\\a",
    "http://example.com:99999/",
    "http://example.com:0/",
    "http://example.com:8o/",
    "http://0x7f.1/",
    "http://2130706433/",
    "http://127.1/",
    "http://127.0.0.1.1/",
    "http://0177.0.0.1/",
    "http://[::1/",
    "http://[fe80::1%25eth0]/",
    "http://a..b/",
    "http://ex%61mple.com/",
    "http://exa mple.com/",
    "http://-a-.com/",
    "http://" + "a" * 64 + ".com/",
    "http://example.com/\ud800.jpg",
    "http://example.com/" + "a" * urls.MAX_URL_CHARS,
]


@pytest.mark.parametrize(("written", "canonical"), CANONICAL.items())
def test_every_spelling_has_its_canonical_form(written, canonical):
    assert urls.canonical(written) == canonical
    assert urls.canonical(canonical) == canonical


@pytest.mark.parametrize("written", REFUSED)
def test_what_is_no_address_we_may_contact_is_refused(written):
    assert urls.canonical(written) is None


@given(
    st.sampled_from(["http://a.com", "HTTPS://Ä.de:8080", "http://1.2.3.4"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
)
def test_canonical_form_is_a_fixed_point_of_plain_ascii(start, rest):
    canonical = urls.canonical(f"{start}/{rest}")
    assert canonical is not None
    assert urls.canonical(canonical) == canonical
    assert re.fullmatch(r"https?://[!-~]+", canonical)
    assert "/../" not in canonical.split("?")[0]


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_refused(text):
    canonical = urls.canonical(text)
    assert canonical is None or urls.canonical(canonical) == canonical


def test_ids_follow_their_definitions():
    address, caption = "http://example.com/a.jpg", unicodedata.normalize("NFC", "e\u0301")
    picture = hashlib.blake2b(address.encode(), digest_size=16).hexdigest()
    assert urls.url_id(address) == picture
    pair = hashlib.blake2b(f"{picture}\n\u00e9".encode(), digest_size=16).hexdigest()
    assert urls.uid(picture, caption) == pair
    assert len(pair) == 32


@pytest.mark.parametrize(
    ("address", "domain"),
    {
        "https://img.shop.example.co.uk/a.jpg": "example.co.uk",
        "http://example.com:8080/": "example.com",
        "http://xn--bcher-kva.example/": "xn--bcher-kva.example",
        "http://127.0.0.1:8900/a": "127.0.0.1",
        "http://[::1]:81/a": "[::1]",
        "http://localhost/a": "localhost",
        "http://co.uk/a": "co.uk",
    }.items(),
)
def test_registered_domain_owns_the_host(address, domain):
    assert urls.registered_domain(address) == domain


def test_hosts_of_one_owner_share_a_bucket_and_owners_spread():
    assert urls.bucket("http://a.example.org/1", 64) == urls.bucket("https://b.example.org/2", 64)
    found = {urls.bucket(f"http://owner{index}.com/", 8) for index in range(200)}
    assert found == set(range(8))
