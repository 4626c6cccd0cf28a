import io
import os

import pytest
from PIL import Image

from pipeline.candidates import urls
from pipeline.images.config import CrawlConfig
from pipeline.images.crawl import crawl
from pipeline.images.fetch import Target
from pipeline.images.local_files import is_local, read_local


def jpeg():
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    return buffer.getvalue()


BODY = jpeg()


@pytest.fixture
def root(tmp_path):
    inside = tmp_path / "pictures"
    (inside / "deep").mkdir(parents=True)
    (tmp_path / "secret.jpg").write_bytes(BODY)
    (inside / "100% ä.jpg").write_bytes(BODY)
    (inside / "deep" / "b.jpg").write_bytes(BODY)
    (inside / "page.jpg").write_bytes(b"<html>")
    (inside / "link.jpg").symlink_to(inside / "deep" / "b.jpg")
    (inside / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (inside / "up").symlink_to(tmp_path)
    (inside / "folder.jpg").mkdir()
    os.mkfifo(inside / "pipe.jpg")
    return inside


def target(path):
    address = urls.local(path)
    assert address is not None
    return Target(urls.url_id(address), address)


@pytest.mark.parametrize("path", ["100% ä.jpg", "deep/b.jpg", "link.jpg"])
def test_what_lies_inside_the_folder_is_read(root, path):
    found = read_local(target(path), str(root), 10_000)
    assert (found.body, found.drop_reason, found.status) == (BODY, None, None)


@pytest.mark.parametrize(
    ("path", "reason"),
    {
        "out.jpg": "refused_address",
        "up/secret.jpg": "refused_address",
        "up/gone.jpg": "refused_address",
        "gone.jpg": "missing_file",
        "page.jpg": "wrong_content_type",
        "pipe.jpg": "refused_address",
        "folder.jpg": "refused_address",
        "page.jpg/a.jpg": "missing_file",
        f"{'x' * 300}.jpg": "refused_address",
        "nul%00.jpg": "missing_file",
    }.items(),
)
def test_everything_else_falls_for_its_reason(root, path, reason):
    found = read_local(target(path), str(root), 10_000)
    assert (found.body, found.drop_reason) == (None, reason)


@pytest.mark.parametrize(
    "url", ["file:///../secret.jpg", "file:////etc/passwd", "file:///%2e%2e/secret.jpg"]
)
def test_a_forged_address_leads_nowhere(root, url):
    found = read_local(Target("k", url), str(root), 10_000)
    assert found.body is None
    assert found.drop_reason in ("refused_address", "missing_file")


def test_a_run_without_a_folder_reads_no_file(root):
    found = read_local(target("deep/b.jpg"), None, 10_000)
    assert (found.body, found.drop_reason) == (None, "refused_address")


def test_longer_files_are_not_read(root):
    assert read_local(target("deep/b.jpg"), str(root), len(BODY)).body == BODY
    found = read_local(target("deep/b.jpg"), str(root), len(BODY) - 1)
    assert (found.body, found.drop_reason) == (None, "too_many_bytes")


def test_an_object_store_may_hold_the_folder():
    import fsspec

    fsspec.filesystem("memory").pipe("/pictures/a.jpg", BODY)
    assert read_local(target("a.jpg"), "memory://pictures", 10_000).body == BODY
    assert read_local(target("b.jpg"), "memory://pictures", 10_000).drop_reason == "missing_file"


def test_a_crawl_reads_files_where_it_may_and_keeps_the_order(root):
    targets = [target("deep/b.jpg"), Target("w", "http://10.0.0.1/a.jpg"), target("gone.jpg")]
    values = {"user_agent": "TestBot/1.0 (+https://test.example/bot)"}
    for folder, expected in (
        (str(root), [None, "refused_address", "missing_file"]),
        (None, ["refused_address"] * 3),
    ):
        config = CrawlConfig.model_validate(values | {"execution": {"local_root": folder}})
        assert crawl(targets, config, lambda fetched: fetched.drop_reason) == expected
    assert [is_local(each) for each in targets] == [True, False, True]
