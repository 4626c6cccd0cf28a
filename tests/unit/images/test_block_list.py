import hashlib

import pytest

from pipeline.errors import ConfigError
from pipeline.images import block_list
from pipeline.images.config import FilterConfig

BODY = b"a received file"
MD5, SHA256 = hashlib.md5(BODY).hexdigest(), hashlib.sha256(BODY).hexdigest()
PHASH = "0123456789abcdef"


def listed(tmp_path, *lines, **options):
    path = tmp_path / "blocked.txt"
    path.write_text("\n".join(lines))
    return FilterConfig(min_side_px=1, block_lists=(str(path),), **options)


@pytest.mark.parametrize("digest", [MD5, SHA256, MD5.upper(), f"  {SHA256}  # why"])
def test_listed_bytes_are_blocked_and_others_are_not(tmp_path, digest):
    found = block_list.read(listed(tmp_path, "# a comment", "", digest))
    assert found.bytes_reason(BODY, SHA256) == "blocked_bytes"
    other = BODY + b"."
    assert found.bytes_reason(other, hashlib.sha256(other).hexdigest()) is None


@pytest.mark.parametrize(
    ("flipped", "reason"), [(0, "blocked_picture"), (3, "blocked_picture"), (4, None)]
)
def test_a_listed_look_is_blocked_within_its_distance(tmp_path, flipped, reason):
    found = block_list.read(listed(tmp_path, PHASH, block_max_hamming=3))
    assert found.picture_reason(int(PHASH, 16) ^ ((1 << flipped) - 1)) == reason
    assert found.bytes_reason(BODY, SHA256) is None


def test_without_lists_nothing_is_blocked():
    found = block_list.read(FilterConfig(min_side_px=1))
    assert found.bytes_reason(BODY, SHA256) is None
    assert found.picture_reason(0) is None


@pytest.mark.parametrize("line", ["abc", "g" * 32, "0" * 40])
def test_a_line_that_is_no_hash_is_refused_with_its_place(tmp_path, line):
    with pytest.raises(ConfigError, match=r"blocked\.txt, line 2: .* is no hash; 32 hex digits"):
        block_list.read(listed(tmp_path, MD5, line))


def test_a_missing_list_is_refused(tmp_path):
    config = FilterConfig(min_side_px=1, block_lists=(str(tmp_path / "none.txt"),))
    with pytest.raises(ConfigError, match=r"none\.txt: cannot read the block list"):
        block_list.read(config)


def test_identity_is_of_the_hashes_and_not_of_their_order_or_comments(tmp_path):
    one = block_list.content_hash(listed(tmp_path, MD5, SHA256))
    assert block_list.content_hash(listed(tmp_path, SHA256.upper(), "# x", MD5, MD5)) == one
    assert block_list.content_hash(listed(tmp_path, MD5)) != one
