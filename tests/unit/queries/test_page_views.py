import gzip

import pytest

from pipeline.errors import ConfigError
from pipeline.queries import page_views
from pipeline.queries.config import PageViewsSource
from tests.wikipedia_dump import write_views

LINES = [
    "de Katze 5 0",
    "en Cat 10 0",
    "en New_York 3 0",
    "en Caf%C3%A9_au_lait 2 0",
    "en Cat%zz 1 0",
    "en Bad%FF 4 0",
    "en Star_Trek:_Discovery 7 0",
    "en Talk:Cat 9 0",
    "en broken",
    "en.m Cat 4 0",
    "en.m New York 3 0",
    "en.mw Cat 99 0",
    "english Cat 99 0",
]
TITLES = [
    ("Cat", 10), ("New York", 3), ("Café au lait", 2), ("Cat%zz", 1), ("Bad\ufffd", 4),
    ("Star Trek: Discovery", 7), ("Talk:Cat", 9), ("Cat", 4),
]  # fmt: skip


def source(**values):
    return PageViewsSource.model_validate(
        {"type": "page_views", "paths": ["x"], "projects": ["en", "en.m"], "min_views": 5} | values
    )


def read(path, projects=("en", "en.m")):
    reading = page_views.Reading()
    return list(page_views.views(str(path), projects, reading)), reading


@pytest.mark.parametrize("name", ["pageviews-20240101-000000", "a.gz", "a.bz2", "a.txt"])
def test_titles_of_the_wanted_projects_are_decoded(tmp_path, name):
    found, reading = read(write_views(tmp_path / name, LINES))
    assert found == TITLES
    assert (reading.num_lines, reading.malformed_lines, reading.damage) == (10, 2, [])


def test_daily_files_state_views_in_their_fifth_field(tmp_path):
    lines = [
        "en.wikipedia Cat 6678 desktop 12 A5B7",
        "en.wikipedia Cat 6678 mobile-web 3 C3",
        "en.wikipedia Dog null desktop 1 A1",
    ]
    found, _ = read(write_views(tmp_path / "a.bz2", lines), ("en.wikipedia",))
    assert found == [("Cat", 12), ("Cat", 3), ("Dog", 1)]


def test_a_cut_file_gives_what_precedes_and_is_named(tmp_path):
    path = write_views(tmp_path / "a.gz", [f"en Title_{number} 5 0" for number in range(30_000)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found, reading = read(path)
    assert 1000 < len(found) < 30_000
    assert found == [(f"Title {number}", 5) for number in range(len(found))]
    assert len(reading.damage) == 1
    assert reading.damage[0].startswith("a.gz: breaks off after ")


def test_what_holds_no_page_views_is_named(tmp_path):
    _, reading = read(write_views(tmp_path / "a.txt", ["<html>", "en Cat 1 0"]))
    assert reading.damage == ["a.txt: byte 0: no line of page views"]
    (tmp_path / "b.gz").write_bytes(b"no gzip")
    _, reading = read(tmp_path / "b.gz")
    assert reading.damage[0].startswith("b.gz: breaks off after 0 bytes")


def test_titles_are_judged_by_views_and_by_what_they_name():
    import pyarrow as pa

    titles = ["Alien: Covenant", "Cat", "Main Page", "Rare", "Talk:Cat", "Bad\ufffd", "A:B"]
    table = pa.table({"ngram": titles, "count": [5, 9, 99, 4, 9, 9, 4]})
    kept, left_out = page_views.judge(table, source())
    assert kept.to_pydict() == {"ngram": ["Alien: Covenant", "Cat"], "count": [5, 9]}
    assert left_out == {"below_min_views": 2, "main_page": 1, "namespace": 1, "undecodable": 1}
    kept, _ = page_views.judge(table, source(main_page="Cat"))
    assert "Main Page" in kept.column("ngram").to_pylist()


def test_files_folders_and_globs_may_overlap(tmp_path):
    for name in ("a/1.gz", "a/2", "b/3.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(gzip.compress(b""))
    wanted = [str(tmp_path / "a"), f"{tmp_path}/*/*.gz", str(tmp_path / "a" / "2")]
    found = page_views.view_paths(source(paths=wanted))
    assert [path.removeprefix(f"{tmp_path}/") for path in found] == ["a/1.gz", "a/2", "b/3.gz"]
    with pytest.raises(ConfigError, match="no such file or folder"):
        page_views.view_paths(source(paths=[str(tmp_path / "c")]))
