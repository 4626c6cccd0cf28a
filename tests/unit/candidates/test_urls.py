import hashlib
import re
import unicodedata
from urllib.parse import urljoin

import pyarrow as pa
import pytest
from hypothesis import given, settings
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


@settings(deadline=None)  # tests may share the machine
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


@settings(deadline=None)  # tests may share the machine
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


def test_a_column_has_the_buckets_of_its_addresses():
    addresses = [
        "http://a.example.org/x.jpg?u=http://c.com/",
        "https://b.example.org:8080/",
        "http://[2001:db8::1]/a",
        "http://192.0.2.7/",
        *(f"http://owner{index}.com/{index}/" for index in range(20)),
    ]
    column = pa.chunked_array([addresses[:3], addresses[3:]])
    assert urls.buckets(column, 8).tolist() == [urls.bucket(each, 8) for each in addresses]
    assert urls.buckets(pa.chunked_array([], pa.string()), 8).tolist() == []


def test_hosts_of_one_owner_share_a_bucket_and_owners_spread():
    assert urls.bucket("http://a.example.org/1", 64) == urls.bucket("https://b.example.org/2", 64)
    found = {urls.bucket(f"http://owner{index}.com/", 8) for index in range(200)}
    assert found == set(range(8))


JOINED = {
    "a.jpg": "http://h.com/x/a.jpg",
    "./a.jpg": "http://h.com/x/a.jpg",
    "../a.jpg": "http://h.com/a.jpg",
    "/a.jpg": "http://h.com/a.jpg",
    "//cdn.com/a.jpg": "http://cdn.com/a.jpg",
    "///a.jpg": "http://h.com/a.jpg",
    "?b": "http://h.com/x/y.html?b",
    "#c": "http://h.com/x/y.html?q=1",
    "a:b.jpg": None,
    "a.jpg?x=1:2": "http://h.com/x/a.jpg?x=1:2",
    "https://o.com/a?": "https://o.com/a?",
    "HTTPS://O.com": "https://o.com/",
    "\\a.jpg": "http://h.com/x//a.jpg",
    "data:image/gif;base64,AA": None,
    "http://[broken/": None,
    "//[broken/": None,
    "mailto:a@b.com": None,
    "b c.jpg": "http://h.com/x/b%20c.jpg",
}


@pytest.mark.parametrize(("written", "expected"), JOINED.items())
def test_a_pages_address_is_made_absolute(written, expected):
    joined = urls.joiner("http://h.com/x/y.html?q=1")(written)
    assert (urls.canonical(joined) if joined else None) == expected


@settings(deadline=None)  # tests may share the machine
@given(
    st.sampled_from(["http://h.com", "https://h.com/a/b.html", "http://h.com:81/a/?q=/z#/w"]),
    st.text(st.sampled_from("ab%.:&=@ä-_[]"), min_size=1, max_size=8),
)
def test_joining_agrees_with_the_standard_library(base, written):
    try:
        expected = urls.canonical(urljoin(base, written))
    except ValueError:
        expected = None
    joined = urls.joiner(base)(written)
    assert (urls.canonical(joined) if joined else None) == expected


@pytest.mark.parametrize("base", ["", "nowhere", "http://[broken/", "http://h.com/a b/c"])
def test_any_base_gives_an_address_or_none(base):
    assert urls.joiner(base)("http://o.com/a.jpg") in ("http://o.com/a.jpg", None)
    urls.joiner(base)("a.jpg")


@pytest.mark.parametrize(
    ("path", "address"),
    {
        "a.jpg": "file:///a.jpg",
        "./b//c.jpg": "file:///b/c.jpg",
        "b/../c.jpg": "file:///c.jpg",
        "..a.jpg": "file:///..a.jpg",
        "100%25.jpg": "file:///100%2525.jpg",
        "../a.jpg": None,
        "b/../../a.jpg": None,
        "/etc/passwd": None,
        ".": None,
        "..": None,
        "\udcff.jpg": None,
    }.items(),
)
def test_files_of_a_folder_have_addresses_that_lead_nowhere_else(path, address):
    assert urls.local(path) == address
    if address is not None:
        assert urls.canonical(address) is None
        assert urls.local(urls.local_path(address)) == address


def test_files_of_a_folder_are_spread_over_buckets():
    found = {urls.bucket(f"file:///{index}.jpg", 8) for index in range(200)}
    assert found == set(range(8))
    assert urls.local_path("http://a.com/b.jpg") is None
