"""Every picture and every pair of the small web, with its truth, as a function of the seed.

A *kind* says what is true of a pair: ``good``, ``wallpaper`` or the name of a rate in
``config.FaultRates``. ``DROP_REASONS`` says what a crawl should make of each kind.
"""

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np

from pipeline.demo.captions import BOILERPLATE, WALLPAPERS, caption
from pipeline.demo.config import SmallWebConfig
from pipeline.demo.shapes import Scene, lettered, random_scene
from pipeline.draws import generator, hash64, uniform

GOOD = "good"
WALLPAPER = "wallpaper"
DROP_REASONS: dict[str, str | None] = {
    GOOD: None,
    WALLPAPER: None,
    "dead_link": "http_error",
    "server_error": "http_error",
    "wrong_type": "wrong_content_type",
    "mislabelled": "decode_error",
    "truncated": "decode_error",
    "icon": "too_small",
    "banner": "aspect_ratio",
    "bomb": "too_many_pixels",
    "exact_copy": "exact_duplicate",
    "near_copy": "near_duplicate",
    "boilerplate": "repeated_caption",
    "empty_alt": "empty_caption",
    "repeated_pair": "duplicate_pair",
    "second_caption": None,
    "robots_refused": "robots_disallowed",
    "noai_page": "opted_out_page",
    "noai_header": "opted_out_image",
    "redirect": None,
    "redirect_chain": None,
    "redirect_loop": "too_many_redirects",
    "slow": None,
    "gone_host": "dns_error",
    "private_address": "refused_address",
    "broken_address": "invalid_url",
}
"""What a crawl should make of a pair of each kind; None where it is good."""

_COPIES = ("exact_copy", "near_copy", "repeated_pair", "second_caption")
_ENCODINGS = {
    "bomb": "png",
    "truncated": "jpg",
    "near_copy": "jpg",
    "wrong_type": "jpg",
    "mislabelled": "jpg",
}
_NO_ADDRESS = {
    "gone_host": ("http://www.gone-{n}.example/pictures/{n}.jpg",),
    "private_address": (
        "http://169.254.169.254/latest/{n}.jpg",
        "http://10.0.0.1/pictures/{n}.jpg",
        "http://[::1]/pictures/{n}.jpg",
        "http://127.0.0.1:9/pictures/{n}.jpg",
    ),
    "broken_address": ("ftp://files.example/{n}.jpg", "http://[broken/{n}.jpg"),
}
_ADJECTIVES = (
    "amber bright calm dusty early faded gentle hidden idle jolly "
    "keen lucky misty noble olden plain quiet rapid silver tidy"
)
_NOUNS = (
    "anchor bridge candle dial ember field garden harbour island jetty "
    "kettle lantern meadow needle orchard pebble quarry river station tower"
)


@dataclass(frozen=True)
class Picture:
    """A picture's address, and what is true of it.

    ``host`` and ``path`` are where it is served; ``encoding`` is jpg, png or webp; ``kind`` is the
    kind of the pair it was made for; ``seed`` draws whatever its kind leaves open.
    """

    kind: str
    host: str
    path: str
    scene: Scene
    encoding: str
    seed: int


@dataclass(frozen=True)
class Pair:
    """An address and a caption on a page of ``page_host``; ``picture`` is None where none exists.

    ``url`` is what the page says, which may be a redirect to the picture.
    """

    kind: str
    page_host: str
    url: str
    caption: str
    picture: Picture | None


def page_hosts(num_hosts: int) -> tuple[str, ...]:
    """Fixed host names, each below a registered domain of its own."""
    adjectives, nouns = _ADJECTIVES.split(), _NOUNS.split()
    names = []
    for index in range(num_hosts):
        row, column = index % len(adjectives), (index // len(adjectives) + 7 * index) % len(nouns)
        names.append(f"www.{adjectives[row]}-{nouns[column]}.example")
    return tuple(names)


def picture_host(page_host: str) -> str:
    """Where the pictures of a host's pages lie: a third of the domains has a host just for them."""
    return page_host.replace("www.", "img.", 1) if hash64(page_host) % 3 == 0 else page_host


def expected_counts(config: SmallWebConfig) -> dict[str, int]:
    """Pairs of every kind."""
    counts = {GOOD: config.num_pictures}
    for kind, rate in config.faults.model_dump().items():
        counts[kind] = max(1, round(rate * config.num_pictures)) if rate else 0
    share = config.wallpaper_share
    counts[WALLPAPER] = round(sum(counts.values()) * share / (1 - share))
    return counts


def plan_pairs(config: SmallWebConfig) -> list[Pair]:
    """All pairs of the web; those of one kind follow each other."""
    hosts = page_hosts(config.num_hosts)
    counts = expected_counts(config)
    good = [_made(config, hosts, GOOD, i) for i in range(counts[GOOD])]
    pairs = list(good)
    for kind, count in counts.items():
        if kind in _COPIES:
            # Each kind copies other pictures, so that no picture has two kinds of copies early on.
            start = _COPIES.index(kind) * len(good) // len(_COPIES)
            sources = [good[(start + i) % len(good)] for i in range(count)]
            pairs += [_copied(config, hosts, kind, i, s) for i, s in enumerate(sources)]
        elif kind in _NO_ADDRESS:
            pairs += [_unreachable(config, hosts, kind, i) for i in range(count)]
        elif kind != GOOD:
            pairs += [_made(config, hosts, kind, i) for i in range(count)]
    return pairs


def redirects_of(pair: Pair, hosts: tuple[str, ...]) -> dict[tuple[str, str], str]:
    """(host, path) → location of every redirect between a pair's address and its picture."""
    picture = pair.picture
    if picture is None or not pair.kind.startswith("redirect"):
        return {}
    host, target = picture.host, f"http://{picture.host}{picture.path}"
    first = _gate(picture)
    if pair.kind == "redirect":
        return {(host, first): picture.path}
    if pair.kind == "redirect_loop":
        return {(host, first): first + "/again", (host, first + "/again"): first}
    other = hosts[picture.seed % len(hosts)]
    return {
        (host, first): first + "/2",
        (host, first + "/2"): f"http://{other}{first}/3",
        (other, first + "/3"): target,
    }


def _made(config: SmallWebConfig, hosts: tuple[str, ...], kind: str, index: int) -> Pair:
    """A pair with a picture of its own."""
    rng = generator(config.seed, f"web/{kind}", index)
    scene = random_scene(rng)
    # Letters have draws of their own, so that scenes without them do not depend on their share.
    letters = generator(config.seed, f"letters/{kind}", index)
    if letters.random() < config.lettering_share:
        scene = lettered(scene, letters)
    page_host = hosts[int(rng.integers(len(hosts)))]
    seed = int(rng.integers(1 << 32))
    picture = _picture(kind, picture_host(page_host), index, scene, seed)
    path = _gate(picture) if kind.startswith("redirect") else picture.path
    text = _caption(kind, index, scene, rng)
    return Pair(kind, page_host, f"http://{picture.host}{path}", text, picture)


def _picture(kind: str, host: str, index: int, scene: Scene, seed: int) -> Picture:
    lot = uniform("encoding", seed)
    drawn = "jpg" if lot < 0.88 else "png" if lot < 0.96 else "webp"
    encoding = _ENCODINGS.get(kind, drawn)
    folder = "private" if kind == "robots_refused" else "pictures"
    query = f"?id={index}&view=full" if seed % 20 == 0 else ""
    path = f"/{folder}/{kind.replace('_', '-')}-{index:05d}.{encoding}{query}"
    return Picture(kind, host, path, scene, encoding, seed)


def _gate(picture: Picture) -> str:
    """The path of the first redirect to a picture."""
    return "/go" + picture.path.partition("?")[0]


def _caption(kind: str, index: int, scene: Scene, rng: np.random.Generator) -> str:
    if kind == "empty_alt":
        return ""
    if kind == "boilerplate":
        return BOILERPLATE[index % len(BOILERPLATE)]
    if kind == WALLPAPER:
        return WALLPAPERS[index % len(WALLPAPERS)].format(number=index + 1)
    text = caption(scene, rng)
    return f"icon of {text}" if kind == "icon" else text


def _copied(
    config: SmallWebConfig, hosts: tuple[str, ...], kind: str, index: int, source: Pair
) -> Pair:
    """A pair that repeats the address or the picture of a good one, on another host's page."""
    picture = source.picture
    if picture is None:
        raise ValueError(f"{source.url}: only a pair with a picture can be copied")
    rng = generator(config.seed, f"web/{kind}", index)
    others = [host for host in hosts if host != source.page_host]
    page_host = others[int(rng.integers(len(others)))]
    if kind == "repeated_pair":
        return replace(source, kind=kind, page_host=page_host)
    text = source.caption
    while text == source.caption:
        text = caption(picture.scene, rng)
    if kind == "second_caption":
        return Pair(kind, page_host, source.url, text, picture)
    # An exact copy keeps the seed, and so the bytes; a near copy is encoded anew from the same.
    copy = _picture(kind, picture_host(page_host), index, picture.scene, picture.seed)
    return Pair(kind, page_host, f"http://{copy.host}{copy.path}", text, copy)


def _unreachable(config: SmallWebConfig, hosts: tuple[str, ...], kind: str, index: int) -> Pair:
    rng = generator(config.seed, f"web/{kind}", index)
    forms = _NO_ADDRESS[kind]
    url = forms[index % len(forms)].format(n=index)
    text = caption(random_scene(rng), rng)
    return Pair(kind, hosts[int(rng.integers(len(hosts)))], url, text, None)


def pairs_by_host(pairs: list[Pair]) -> dict[str, list[Pair]]:
    """Pairs grouped by the host of their page, in an order without pattern."""
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in sorted(pairs, key=lambda pair: hash64(pair.page_host, pair.url, pair.caption)):
        groups[pair.page_host].append(pair)
    return dict(sorted(groups.items()))
