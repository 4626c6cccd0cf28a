import json
import os

import pytest

from pipeline.candidates import sources, urls
from pipeline.candidates.config import FolderConfig
from pipeline.errors import ConfigError


def config(path, **values):
    return FolderConfig(type="folder", path=str(path), **values)


def read_all(config):
    found = [sources.read(config, partition) for partition in sources.plan(config)]
    rows = [row for part in found for row in part.table.to_pylist()]
    dropped = {reason: n for part in found for reason, n in part.dropped.items()}
    return {row["url"]: row["caption"] for row in rows}, dropped, rows


def fill(folder, **contents):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name.replace("_dot_", ".")).write_bytes(content)


@pytest.fixture
def pictures(tmp_path):
    fill(tmp_path / "00000", a_dot_jpg=b"", a_dot_txt=b" a cat \n", b_dot_PNG=b"", b_dot_txt=b"dog")
    fill(tmp_path / "00001", c_dot_webp=b"", d_dot_jpg=b"", d_dot_txt=b"\xff", e_dot_json=b"{}")
    fill(tmp_path / "00001" / "deep", e_dot_jpg=b"", e_dot_txt="ä".encode())
    (tmp_path / "100% ä.jpg").write_bytes(b"")
    (tmp_path / "100% ä.txt").write_text("sure")
    return tmp_path


def test_texts_beside_pictures_are_their_captions(pictures):
    found, dropped, _ = read_all(config(pictures))
    assert found == {
        "file:///00000/a.jpg": "a cat",
        "file:///00000/b.PNG": "dog",
        "file:///00001/deep/e.jpg": "ä",
        "file:///100%25%20%C3%A4.jpg": "sure",
    }
    assert dropped == {"empty_caption": 1, "unreadable_row": 1}
    assert "100% ä.jpg" in [urls.local_path(url) for url in found]


def test_ids_stay_the_same_when_the_folder_moves(pictures, tmp_path_factory):
    before = {row["uid"] for row in read_all(config(pictures))[2]}
    identity = sources.identity(config(pictures))
    moved = pictures.rename(tmp_path_factory.mktemp("other") / "pictures")
    assert {row["uid"] for row in read_all(config(moved))[2]} == before
    assert sources.identity(config(moved)) == identity
    (moved / "00000" / "a.txt").write_text("another cat")
    assert sources.identity(config(moved)) != identity


@pytest.mark.parametrize("name", ["metadata.jsonl", "deep/captions.csv"])
def test_a_table_in_the_folder_names_files_and_captions(tmp_path, name):
    (tmp_path / "deep").mkdir()
    rows = [("a.jpg", "one", "by"), ("x/b.jpg", "two", "by"), ("../../etc/passwd", "no", "")]
    rows += [("/etc/passwd", "no", ""), ("", "no", ""), ("c.jpg", "", "")]
    if name.endswith("csv"):
        lines = ["file_name,text,rights", *(",".join(row) for row in rows)]
    else:
        lines = [
            json.dumps(dict(zip(("file_name", "text", "rights"), r, strict=True))) for r in rows
        ]
    (tmp_path / name).write_text("\n".join(lines))
    asked = config(
        tmp_path, captions=name, caption_column="text", licence_column="rights", sample=1.0
    )
    found, dropped, table = read_all(asked)
    start = "file:///deep/" if name.startswith("deep") else "file:///"
    assert found == {f"{start}a.jpg": "one", f"{start}x/b.jpg": "two"}
    assert dropped == {"invalid_url": 3, "empty_caption": 1}
    assert {row["licence"] for row in table} == {"by"}
    assert sources.identity(asked)["files"][1]["name"] == name.rsplit("/", 1)[-1]


def test_another_picture_of_the_same_name_is_another_folder(tmp_path):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(b"x" * 10)
        (tmp_path / name / "a.txt").write_text("a cat")
    identity = sources.identity(config(tmp_path / "here"))
    assert sources.identity(config(tmp_path / "there")) == identity
    (tmp_path / "here" / "a.jpg").write_bytes(b"y" * 11)
    assert sources.identity(config(tmp_path / "here")) != identity


def test_captions_are_read_from_inside_the_folder_alone(tmp_path):
    (tmp_path / "secret").write_text("a secret")
    (tmp_path / "in").mkdir()
    for name in "abc":
        (tmp_path / "in" / f"{name}.jpg").write_bytes(b"x")
    (tmp_path / "in" / "a.txt").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "in" / "b.txt")
    (tmp_path / "in" / "c.txt").write_text("a cat")
    found, dropped, _ = read_all(config(tmp_path / "in", sample=1.0))
    assert found == {"file:///c.jpg": "a cat"}
    assert dropped == {"empty_caption": 2}


def test_wrong_folders_are_configuration_errors(tmp_path):
    with pytest.raises(ConfigError, match="is no folder"):
        sources.plan(config(tmp_path / "gone"))
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"none of its 1 files ends in \.jpg"):
        sources.plan(config(tmp_path))
    with pytest.raises(ConfigError, match="no such file"):
        sources.plan(config(tmp_path, captions="gone.csv"))
