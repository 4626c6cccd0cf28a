import io
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from pipeline.images.config import DedupConfig
from pipeline.images.dedup import Entry, group, phash, signature

CONFIG = DedupConfig(max_hamming=4, max_colour_difference=12)


def disc(colour, background=(128, 128, 128), centre=(160, 150), radius=50, side=320):
    image = Image.new("RGB", (side, side), background)
    x, y = centre
    ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return image


def compressed(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def entry(key, image, side_px=None):
    signed = signature(image)
    return Entry(
        key,
        sha256=f"bytes of {key}",
        pixel_sha256=signed.pixel_sha256,
        phash=signed.phash,
        thumbnail=signed.thumbnail,
        side_px=side_px or max(image.size),
        uid=f"uid of {key}",
    )


def reasons(*entries):
    return {key: verdict.drop_reason for key, verdict in group(entries, CONFIG).items()}


def test_equal_bytes_and_equal_pixels_are_exact_duplicates():
    one, two, three = (entry(key, disc((255, 0, 0))) for key in "abc")
    one = Entry(**{**vars(one), "pixel_sha256": "other decoder"})
    two = Entry(**{**vars(two), "sha256": one.sha256})
    assert reasons(one, two, three) == {"a": None, "b": "exact_duplicate", "c": "exact_duplicate"}


def test_compressed_and_scaled_copies_are_near_duplicates_of_the_larger_one():
    original = disc((255, 0, 0))
    small = original.resize((256, 256), Image.Resampling.BICUBIC)
    found = group(
        [entry("a", small), entry("b", compressed(original, 60)), entry("c", original)], CONFIG
    )
    assert {key: verdict.drop_reason for key, verdict in found.items()} == {
        "a": "near_duplicate",
        "b": None,
        "c": "near_duplicate",
    }
    assert {verdict.cluster for verdict in found.values()} == {"b"}


def test_discs_of_equal_luminance_and_other_colour_are_not_the_same():
    red, green = disc((200, 0, 0)), disc((0, 102, 0))
    assert (signature(red).phash ^ signature(green).phash).bit_count() <= CONFIG.max_hamming
    assert reasons(entry("a", red), entry("b", green)) == {"a": None, "b": None}


def test_a_moved_disc_is_another_picture():
    moved = disc((255, 0, 0), centre=(190, 170))
    assert reasons(entry("a", disc((255, 0, 0))), entry("b", moved)) == {"a": None, "b": None}


def fake(key, phash, side_px=100, level=0, sha256=None):
    return Entry(key, sha256 or key, f"pixels {key}", phash, bytes([level] * 192), side_px, key)


def test_nothing_chains_through_strangers():
    # b resembles a, c resembles b, but c does not resemble the leader a.
    chain = [fake("a", 0), fake("b", 0b1111), fake("c", 0b11111111)]
    assert reasons(*chain) == {"a": None, "b": "near_duplicate", "c": None}


def test_the_limits_themselves_still_count_as_the_same():
    assert reasons(fake("a", 0), fake("b", 0b1111, level=12))["b"] == "near_duplicate"
    assert reasons(fake("a", 0), fake("b", 0b11111))["b"] is None
    assert reasons(fake("a", 0), fake("b", 0, level=13))["b"] is None


def test_the_larger_side_leads_and_then_the_smaller_uid():
    assert reasons(fake("a", 0), fake("b", 0, side_px=200))["a"] == "near_duplicate"
    assert reasons(fake("b", 0), fake("a", 0))["b"] == "near_duplicate"


def test_an_exact_copy_of_a_near_duplicate_joins_the_same_leader():
    found = group(
        [fake("a", 0, 300), fake("b", 1, 200, sha256="x"), fake("c", 1, 100, sha256="x")], CONFIG
    )
    assert found["b"].drop_reason == "near_duplicate"
    assert found["c"].drop_reason == "exact_duplicate"
    assert found["c"].cluster == found["b"].cluster == "a"


entries = st.lists(
    st.builds(
        fake,
        key=st.text("0123456789abcdef", min_size=4, max_size=4),
        phash=st.integers(0, 63),
        side_px=st.sampled_from([100, 200]),
        level=st.sampled_from([0, 10, 20]),
        sha256=st.sampled_from([None, "one", "two"]),
    ),
    unique_by=lambda each: each.key,
    max_size=24,
)


@given(entries, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(rows, rng: random.Random):
    shuffled = list(rows)
    rng.shuffle(shuffled)
    assert group(rows, CONFIG) == group(shuffled, CONFIG)


@given(entries)
def test_leaders_differ_and_followers_resemble_their_leader(rows):
    verdicts, by_key = group(rows, CONFIG), {each.key: each for each in rows}
    leaders = [each for each in rows if verdicts[each.key].drop_reason is None]
    for each in rows:
        cluster = verdicts[each.key].cluster
        assert verdicts[cluster].drop_reason is None
        if verdicts[each.key].drop_reason == "near_duplicate":
            assert resembles(each, by_key[cluster])
    for index, one in enumerate(leaders):
        assert not any(resembles(one, other) for other in leaders[index + 1 :])


def resembles(one, other):
    levels = zip(one.thumbnail, other.thumbnail, strict=True)
    return (one.phash ^ other.phash).bit_count() <= CONFIG.max_hamming and all(
        abs(a - b) <= CONFIG.max_colour_difference for a, b in levels
    )


def test_the_hash_ignores_brightness_and_contrast():
    noise = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    picture = np.asarray(Image.fromarray(noise).resize((32, 32), Image.Resampling.BICUBIC))
    darker = (picture // 2 + 20).astype(np.uint8)
    assert (phash(picture) ^ phash(darker)).bit_count() <= 6


@pytest.mark.parametrize("seed", range(3))
def test_unrelated_pictures_have_distant_hashes(seed):
    rng = np.random.default_rng(seed)
    one, two = rng.integers(0, 256, (2, 32, 32), np.uint8)
    assert (phash(one) ^ phash(two)).bit_count() > 15
