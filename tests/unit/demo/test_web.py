import html
import io
import re
from collections import Counter
from urllib.parse import urljoin, urlsplit

import numpy as np
import pytest
from fastwarc.warc import ArchiveIterator
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.candidates import common_crawl
from pipeline.candidates.config import WarcConfig
from pipeline.config import semantic
from pipeline.demo.captions import mentions_held_out
from pipeline.demo.config import FaultRates, SmallWebConfig
from pipeline.demo.plan import DROP_REASONS, page_hosts, plan_pairs
from pipeline.demo.shapes import held_out, render
from pipeline.demo.web import SmallWeb, write_warc

CONFIG = SmallWebConfig(type="small_web", seed=1, num_pictures=200, num_hosts=8)


@pytest.fixture(scope="module")
def web():
    return SmallWeb(CONFIG)


def fetch(web, url):
    parts = urlsplit(url)
    return web.respond(parts.netloc, parts.path + (f"?{parts.query}" if parts.query else ""))


def pairs_of(web, kind):
    return [pair for pair in web.pairs if pair.kind == kind]


def test_expected_counts_are_the_counts_of_the_pairs(web):
    counts = {kind: count for kind, count in web.expected_counts().items() if count}
    assert Counter(pair.kind for pair in web.pairs) == counts
    assert counts["good"] == 200
    assert set(counts) == set(DROP_REASONS)
    assert set(FaultRates.model_fields) == set(DROP_REASONS) - {"good", "wallpaper"}


def test_the_popular_query_covers_the_configured_share(web):
    share = sum("wallpaper" in pair.caption for pair in web.pairs) / len(web.pairs)
    assert share == pytest.approx(0.5, abs=0.01)


def test_a_rate_of_zero_makes_no_pair():
    faults = FaultRates(dead_link=0, slow=0)
    web = SmallWeb(CONFIG.model_copy(update={"faults": faults, "wallpaper_share": 0.0}))
    kinds = {pair.kind for pair in web.pairs}
    assert not kinds & {"dead_link", "slow", "wallpaper"}


@settings(deadline=None, max_examples=20)  # a busy machine is no failure
@given(st.floats(0, 1), st.integers(0, 1 << 32))
def test_letters_leave_all_other_pairs_as_they_were(share, seed):
    bare = CONFIG.model_copy(update={"num_pictures": 10, "seed": seed})
    lettered = bare.model_copy(update={"lettering_share": share})
    for pair, before in zip(plan_pairs(lettered), plan_pairs(bare), strict=True):
        assert (pair.kind, pair.page_host, pair.url) == (before.kind, before.page_host, before.url)
        if pair.picture is None or pair.picture.scene.label is None:
            assert pair == before


def test_a_web_without_letters_keeps_its_identity():
    assert "lettering_share" not in semantic(CONFIG)
    assert "lettering_share" in semantic(CONFIG.model_copy(update={"lettering_share": 0.5}))


def test_as_many_scenes_have_letters_as_asked():
    num, share = 500, 0.3
    some = CONFIG.model_copy(update={"num_pictures": num, "lettering_share": share})
    good = [pair for pair in plan_pairs(some) if pair.kind == "good"]
    drawn = [pair for pair in good if pair.picture.scene.label]
    assert len(drawn) == pytest.approx(share * num, abs=4 * (num * share * (1 - share)) ** 0.5)
    bare = sum(not pair.picture.scene.shapes for pair in drawn)
    assert bare == pytest.approx(len(drawn) / 2, abs=2 * len(drawn) ** 0.5)


def test_copies_of_letters_say_the_same_word():
    web = SmallWeb(CONFIG.model_copy(update={"lettering_share": 1.0}))
    pairs = [
        p for kind in ("exact_copy", "near_copy", "second_caption") for p in pairs_of(web, kind)
    ]
    assert pairs
    for pair in pairs:
        assert re.search(rf"\b{pair.picture.scene.label.word}\b", pair.caption)


def test_nothing_held_out_is_captioned_or_drawn(web):
    for pair in web.pairs:
        assert not mentions_held_out(pair.caption)
        if pair.picture:
            assert not any(held_out(*each) for each in pair.picture.scene.combinations)


def test_hosts_have_different_registered_domains_under_the_reserved_name():
    hosts = page_hosts(400)
    assert len({host.split(".")[-2] for host in hosts}) == 400
    assert all(re.fullmatch(r"www\.[a-z]+-[a-z]+\.example", host) for host in hosts)
    assert page_hosts(3) == hosts[:3]


def test_equal_seeds_give_equal_bytes_and_other_seeds_others(web):
    twin, other = SmallWeb(CONFIG), SmallWeb(CONFIG.model_copy(update={"seed": 2}))
    assert web.pairs == twin.pairs
    assert web.pairs != other.pairs
    for pair in web.pairs[:40]:
        assert fetch(web, pair.url) == fetch(twin, pair.url)


def test_a_good_picture_shows_its_scene(web):
    for pair in pairs_of(web, "good")[:20]:
        response = fetch(web, pair.url)
        kind, scene = web.truth(pair.url)
        assert (response.status, kind, scene) == (200, "good", pair.picture.scene)
        image = Image.open(io.BytesIO(response.body))
        assert Image.MIME[image.format] == response.headers["Content-Type"]
        error = np.asarray(image, dtype=float) - np.asarray(render(scene), dtype=float)
        assert np.abs(error).mean() < 6


@pytest.mark.parametrize(
    ("kind", "status", "media_type"),
    [
        ("dead_link", 404, "text/html"),
        ("server_error", 500, "text/html"),
        ("wrong_type", 200, "text/html"),
        ("mislabelled", 200, "image/jpeg"),
    ],
)
def test_a_broken_picture_answers_with_a_page(web, kind, status, media_type):
    response = fetch(web, pairs_of(web, kind)[0].url)
    assert response.status == status
    assert response.headers["Content-Type"] == media_type
    assert response.body.startswith(b"<!doctype html>")


def test_a_truncated_jpeg_cannot_be_decoded(web):
    body = fetch(web, pairs_of(web, "truncated")[0].url).body
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(body)).load()


def test_sizes_are_wrong_where_they_should_be(web):
    def size(kind):
        return Image.open(io.BytesIO(fetch(web, pairs_of(web, kind)[0].url).body)).size

    assert 16 <= size("icon")[0] <= 32
    assert size("banner") == (960, 160)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # it is one
def test_the_bomb_is_small_and_unpacks_to_144_million_pixels(web):
    body = fetch(web, pairs_of(web, "bomb")[0].url).body
    assert len(body) < 100_000
    assert Image.open(io.BytesIO(body)).size == (12_000, 12_000)


def test_copies_are_exact_or_near(web):
    good = {pair.picture.scene: pair for pair in pairs_of(web, "good")}
    for pair in pairs_of(web, "exact_copy"):
        source = good[pair.picture.scene]
        assert source.url != pair.url
        assert source.caption != pair.caption
        assert fetch(web, source.url).body == fetch(web, pair.url).body
    for pair in pairs_of(web, "near_copy"):
        ours = Image.open(io.BytesIO(fetch(web, pair.url).body)).resize((64, 64))
        theirs = render(pair.picture.scene, 64)
        assert fetch(web, pair.url).body != fetch(web, good[pair.picture.scene].url).body
        error = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
        assert np.abs(error).mean() < 6


def test_repeated_pairs_and_second_captions_share_an_address_with_a_good_pair(web):
    good = {pair.url: pair for pair in pairs_of(web, "good")}
    for pair in pairs_of(web, "repeated_pair"):
        assert good[pair.url].caption == pair.caption
        assert good[pair.url].page_host != pair.page_host
    for pair in pairs_of(web, "second_caption"):
        assert good[pair.url].caption != pair.caption


@pytest.mark.parametrize(("kind", "hops"), [("redirect", 1), ("redirect_chain", 3)])
def test_redirects_lead_to_the_picture(web, kind, hops):
    for pair in pairs_of(web, kind):
        url = pair.url
        for _ in range(hops):
            response = fetch(web, url)
            assert response.status == 302
            url = urljoin(url, response.headers["Location"])
        assert url == f"http://{pair.picture.host}{pair.picture.path}"
        assert fetch(web, url).status == 200


def test_a_redirect_loop_comes_back_to_where_it_began(web):
    url = start = pairs_of(web, "redirect_loop")[0].url
    for _ in range(2):
        url = urljoin(url, fetch(web, url).headers["Location"])
    assert url == start


def test_refused_pictures_lie_below_a_path_that_robots_txt_refuses(web):
    for pair in pairs_of(web, "robots_refused"):
        assert urlsplit(pair.url).path.startswith("/private/")
        robots = web.respond(pair.picture.host, "/robots.txt")
        assert b"\nDisallow: /private/\n" in robots.body


def test_opt_outs_are_sent(web):
    for pair in pairs_of(web, "noai_header"):
        assert fetch(web, pair.url).headers["X-Robots-Tag"].startswith("noai")
    pages = [page for page in web.pages if page.opt_out]
    assert sum(len(page.pairs) for page in pages) == web.expected_counts()["noai_page"]
    for page in pages:
        response = web.respond(page.host, page.path)
        by_header = response.headers.get("X-Robots-Tag") == "noai"
        by_meta = b'<meta name="robots" content="noai' in response.body
        assert by_header != by_meta
        assert all(pair.kind == "noai_page" for pair in page.pairs)


def test_unknown_hosts_and_paths_answer_404(web):
    assert web.respond("www.elsewhere.example", "/robots.txt").status == 404
    assert web.respond(web.hosts[0], "/nothing").status == 404
    gone = pairs_of(web, "gone_host")[0]
    assert urlsplit(gone.url).netloc not in web.hosts


def test_only_the_slow_picture_waits(web):
    assert fetch(web, pairs_of(web, "slow")[0].url).delay_s == CONFIG.slow_s
    assert fetch(web, pairs_of(web, "good")[0].url).delay_s == 0


def images_on(page_url, text):
    """Address and caption of every <img>, as a browser resolves them."""
    base = re.search(r'<base href="([^"]+)">', text)
    start = base.group(1) if base else page_url
    for tag in re.findall(r"<img [^>]*>", text):
        fields = dict(re.findall(r'(\w+)="([^"]*)"', tag))
        address = fields["src"]
        if address.startswith("data:"):
            address = fields["srcset"].rsplit(" ", 1)[0]
        address = html.unescape(address)
        broken = address.startswith("http://[broken")
        yield address if broken else urljoin(start, address), html.unescape(fields["alt"])


def test_the_warc_holds_every_pair_and_is_the_same_twice(web, tmp_path):
    for name in ("a.warc.gz", "b.warc.gz"):
        write_warc(web, tmp_path / name)
    data = (tmp_path / "a.warc.gz").read_bytes()
    assert data == (tmp_path / "b.warc.gz").read_bytes()
    found = Counter()
    opted_out = 0
    for record in ArchiveIterator(io.BytesIO(data)):
        if record.http_headers is None:
            continue
        opted_out += record.http_headers.get("X-Robots-Tag") == "noai"
        text = record.reader.read().decode()
        found.update(images_on(record.headers["WARC-Target-URI"], text))
    assert found == Counter((pair.url, pair.caption) for pair in web.pairs)
    assert opted_out == sum(page.opt_out == "header" for page in web.pages)


def test_our_own_extractor_finds_every_candidate_of_the_warc(web, tmp_path):
    path = tmp_path / "web.warc.gz"
    write_warc(web, path)
    config = WarcConfig(type="warc", path=str(path))
    (partition,) = common_crawl.plan(config)
    candidates = common_crawl.read(config, partition)
    rows = candidates.table.select(["url", "caption"]).to_pylist()
    found = Counter((row["url"], row["caption"]) for row in rows)
    early = ("empty_alt", "noai_page", "broken_address")
    assert candidates.dropped == Counter(
        {DROP_REASONS[kind]: web.expected_counts()[kind] for kind in early}
    )
    assert found == Counter((p.url, p.caption) for p in web.pairs if p.kind not in early)
    assert candidates.damage == []
