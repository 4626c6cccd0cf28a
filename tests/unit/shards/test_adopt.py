"""Other people's samples become rows, views and reasons."""

import hashlib
import io
import json

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from pipeline.candidates import urls
from pipeline.errors import ConfigError
from pipeline.images.decode import decode
from pipeline.images.dedup import signature
from pipeline.shards import adopt
from pipeline.shards.adopt_config import AdoptConfig
from pipeline.shards.adopt_sample import adopt_sample, blocked_by, upright
from pipeline.shards.foreign import ForeignSample
from tests.foreign_shards import picture, write_img2dataset
from tests.picture_corpus import slow_jpeg


def config(path="shards", **changes):
    return AdoptConfig.model_validate({"type": "webdataset", "path": str(path), **changes})


def sample(image=None, txt=None, reason=None, **fields):
    members = {"jpg": picture("a") if image is None else image}
    members |= {"json": json.dumps(fields).encode()} if fields else {}
    members |= {"txt": txt} if txt is not None else {}
    return ForeignSample("000000007", members, reason)


def adopted(stored, **changes):
    settings = config(**changes)
    return adopt_sample(stored, "00000.tar", settings, blocked_by(settings))


def test_a_row_says_what_ours_say_and_ids_are_those_of_a_crawl_of_the_same_pair():
    found = adopted(
        sample(
            url="HTTPS://a.example/x.jpg#top",
            caption=" A caf\u0065\u0301 ",
            original_width=800,
            original_height=600,
            LICENSE="CC BY",
            similarity=0.31,
            width=5,
        ),
        licence_field="LICENSE",
        carried_fields=("similarity", "width", "absent"),
    )
    row, address = found.row, "https://a.example/x.jpg"
    assert (row["key"], row["url"], row["captions"]) == ("000000007", address, ["A café"])
    assert row["uids"] == [urls.uid(urls.url_id(address), "A café")]
    assert (row["width"], row["height"]) == (48, 40)
    assert (row["original_width"], row["original_height"]) == (800, 600)
    assert (row["licence"], row["similarity"], row["absent"]) == ("CC BY", "0.31", None)
    assert row["source_width"] == "5"
    assert found.drop_reason is None


@pytest.mark.parametrize(
    ("stored", "fields", "captions"),
    [
        (sample(txt=b"of the text", caption="of the json"), (), ["of the text"]),
        (sample(txt="Stra\u00dfe \xff".encode("latin-1")), (), ["Stra\ufffde \ufffd"]),
        (sample(captions=["one", "two", "one"]), (), ["one", "two"]),
        (sample(caption="alone"), (), ["alone"]),
        (
            sample(txt=b"alt", re_caption="made", more=["x", 3, " "]),
            ("re_caption", "more"),
            ["made", "x"],
        ),
    ],
)
def test_captions_come_from_the_members_or_from_the_fields_that_are_named(stored, fields, captions):
    assert adopted(stored, caption_fields=fields).row["captions"] == captions


@pytest.mark.parametrize(
    ("stored", "changes", "reason"),
    [
        (sample(txt=b" \n"), {}, "empty_caption"),
        (
            sample(txt=b"w", caption="of no named field"),
            {"caption_fields": ("x",)},
            "empty_caption",
        ),
        (sample(picture("a")[:300], txt=b"w"), {}, "decode_error"),
        (sample(b"<html>", txt=b"w"), {}, "decode_error"),
        (sample(txt=b"w"), {"max_pixels": 1919}, "too_many_pixels"),
        (sample(txt=b"w"), {"filters": {"min_side_px": 41}}, "too_small"),
        (sample(txt=b"w"), {"filters": {"min_side_px": 1, "min_bytes": 10**6}}, "too_few_bytes"),
        (sample(slow_jpeg(), txt=b"w"), {"cpu_deadline_s": 0.2}, "decode_timeout"),
        (sample(reason="repeated_key"), {}, "repeated_key"),
    ],
)
def test_what_cannot_be_used_has_a_reason_and_counts_as_its_pairs(stored, changes, reason):
    found = adopted(stored, **changes)
    assert found.drop_reason == reason
    assert found.num_pairs == len(found.pairs()) == 1
    assert found.pairs()[0]["url_id"] == "000000007"


def test_two_samples_without_an_address_are_told_apart_by_their_bytes():
    one, same = adopted(sample(txt=b"w")), adopted(sample(txt=b"w"))
    other = adopted(sample(picture("b"), txt=b"w"))
    assert one.row["uids"] == same.row["uids"] != other.row["uids"]


def test_adopted_pictures_are_upright_and_transparency_is_white():
    turned = Image.Exif()
    turned[0x0112] = 6
    encoded = picture("a", exif=turned)
    image = upright(encoded, 10_000)
    assert image.size == (40, 48)
    expected = Image.open(io.BytesIO(encoded)).transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(np.asarray(image), np.asarray(expected))
    buffer = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(buffer, "PNG")
    assert upright(buffer.getvalue(), 100).getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(ValueError, match="too_many_pixels"):
        upright(encoded, 100)


def test_adopted_pixels_are_those_of_curation():
    from pipeline.images.config import DecodeConfig

    encoded = picture("a", size=(300, 200))
    curated = decode(encoded, DecodeConfig(pool_side_px=1024))
    assert np.array_equal(np.asarray(upright(encoded, 10**6)), curated.pixels)


def test_a_folder_a_glob_a_range_and_one_tar_are_found(tmp_path):
    write_img2dataset(tmp_path / "data", num_shards=3, per_shard=1)
    names = [f"{tmp_path}/data/0000{number}.tar" for number in range(3)]
    assert adopt.tars(f"{tmp_path}/data") == names
    assert adopt.tars(f"{tmp_path}/data/*2.tar") == names[2:]
    assert adopt.tars(f"{tmp_path}/data/{{00001..00002}}.tar") == names[1:]
    assert adopt.tars(names[0]) == names[:1]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("{0}/data/{{00001..00009}}.tar", "7 of 9 tars are missing, the first is .*00003.tar"),
        ("{0}/data/{{00003..00001}}.tar", "one rising range"),
        ("{0}/none", "no such file or folder"),
        ("{0}/data/*.tgz", "none of its 0 files"),
        ("{0}", "names of tars must differ"),
    ],
)
def test_paths_that_cannot_be_meant_are_refused(tmp_path, path, words):
    write_img2dataset(tmp_path / "data", num_shards=3, per_shard=1)
    write_img2dataset(tmp_path / "more", num_shards=1, per_shard=1)
    with pytest.raises(ConfigError, match=words):
        adopt.tars(path.format(tmp_path))


def test_identity_is_of_the_tars_and_not_of_their_place(tmp_path):
    for folder in ("here", "there"):
        write_img2dataset(tmp_path / folder, per_shard=1)
    here = adopt.identity(config(tmp_path / "here"))
    assert here == adopt.identity(config(tmp_path / "there"))
    tar = tmp_path / "there" / "00001.tar"
    tar.write_bytes(tar.read_bytes() + bytes(10_240))
    assert here != adopt.identity(config(tmp_path / "there"))


@pytest.mark.parametrize(
    "changes", [{"views_px": (64, 64)}, {"views_px": (4,)}, {"carried_fields": ("a", "a")}]
)
def test_settings_that_contradict_themselves_are_refused(changes):
    with pytest.raises(ValidationError):
        config(**changes)


@pytest.mark.parametrize("kind", ["sha256", "md5", "phash"])
def test_pictures_that_a_block_list_names_fall_and_nobody_is_shown_them(tmp_path, kind):
    body = picture("a")
    by_look = signature(upright(body, 10**6)).phash_hex
    digest = by_look if kind == "phash" else hashlib.new(kind, body).hexdigest()
    (tmp_path / "list").write_text(f"{digest}  # not this one\n")
    filters = {"min_side_px": 10**6, "block_lists": [str(tmp_path / "list")]}
    found = adopted(sample(txt=b"w"), filters=filters)
    assert found.drop_reason == ("blocked_picture" if kind == "phash" else "blocked_bytes")
    assert found.image is None
    other = adopted(sample(picture("b"), txt=b"w"), filters={**filters, "min_side_px": 1})
    assert other.drop_reason is None


def test_a_picture_too_long_for_a_jpeg_is_adopted_as_it_is():
    """Nothing of an adopted picture is encoded but its views."""
    found = adopted(sample(picture("a", (66_000, 40), "PNG"), txt=b"w"))
    assert (found.drop_reason, found.row["width"]) == (None, 66_000)
    assert upright(picture("a", (66_000, 40), "PNG"), 10**7).size == (66_000, 40)


def test_a_field_that_is_nested_as_deep_as_can_be_read_stops_nothing():
    reasons = set()
    for depth in range(200, 1100, 3):
        members = {"jpg": picture("a"), "txt": b"w"}
        members["json"] = b'{"x":' + b"[" * depth + b"]" * depth + b"}"
        stored = ForeignSample("a", members, None)
        found = adopted(stored, carried_fields=("x",))
        reasons.add(found.drop_reason)
    assert reasons <= {None, "unreadable_json"}


def test_a_sample_that_fell_still_has_the_address_by_which_it_is_asked_for():
    url = "http://a.example/x.jpg"
    assert adopted(sample(txt=b" ", url=url)).row["url"] == url
    assert adopted(sample(reason="no_picture", url=url)).row["url"] == url
