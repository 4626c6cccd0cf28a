"""A sheet shows what was asked, in one file that nothing in the data can break."""

import json
import re

import pytest

from pipeline.errors import ConfigError
from pipeline.looking import answer, html, sheet, sheet_page
from pipeline.looking.asked import Asked, Band, Near
from pipeline.looking.scores import Scored
from tests.looked_run import HOSTILE
from tests.well_formed import checked


def look(looked, **asked):
    return sheet.look("looked", looked.results, Asked(**asked))


def test_everything_at_once_is_one_well_formed_file_without_outside_references(looked, tmp_path):
    found = look(
        looked,
        texts=("a red thing", "<b>bold</b>"),
        queries=("<b>square</b>",),
        reasons=("out_of_bounds_unsafe", "http_error"),
        bands=(Band("aesthetic", 0.0, 0.5),),
        nears=(Near("similarity", 0.05, 0.5),),
        anything=True,
        sweeps=True,
        number=50,
    )
    said = sheet_page.write(found, str(tmp_path / "sheet.html"))
    page = (tmp_path / "sheet.html").read_text()
    checker = checked(page)
    assert "script" not in checker.tags
    assert "i" not in set(re.findall(r"<(i)>", page))  # those of the page have a class
    assert checker.sources
    assert all(source.startswith("data:image/") for source in checker.sources)
    assert {link.removeprefix("#") for link in checker.links} == set(checker.ids)
    assert len(found.groups) == 9
    assert f": {len(checker.sources) + 1} pictures" in said  # one reject had no picture
    assert "&lt;script&gt;" in page
    assert HOSTILE not in page


def test_groups_hold_what_they_say(looked):
    found = look(looked, queries=("circle",), reasons=("out_of_bounds_aesthetic",), number=4)
    circle, fallen = found.groups
    expected = [row for row in looked.rows if 0 in row["queries"]]
    assert circle.count == len(expected)
    assert circle.note.startswith(f"{len(expected)} samples; clip keeps {len(expected)}; gener")
    by_key = {row["key"]: row for row in looked.rows}
    for sample in circle.samples + fallen.samples:
        row = by_key[sample.key]
        assert sample.captions == row["captions"]
        assert sample.url == row["url"]
        assert sample.scores["aesthetic"] == row["aesthetic"]
        assert ("unsafe" in sample.scores) == (row["unsafe"] is not None)
        assert sample.outcomes == row["outcomes"]
    reason = "out_of_bounds_aesthetic"
    assert {each.outcomes["generative"] for each in fallen.samples} == {reason}
    assert fallen.title == "Profile generative: out of bounds aesthetic"


def test_the_same_call_shows_the_same_and_another_seed_others(looked):
    looks = [look(looked, anything=True, number=6, seed=seed) for seed in (0, 0, 1)]
    keys = [[sample.key for sample in each.groups[0].samples] for each in looks]
    assert keys[0] == keys[1] != keys[2]


def test_bands_are_shown_by_rising_score(looked):
    (group,) = look(looked, bands=(Band("aesthetic", 0.1, 0.9),), number=10).groups
    scores = [sample.scores["aesthetic"] for sample in group.samples]
    assert scores == sorted(scores)
    assert len(scores) == 10


def test_one_profile_is_looked_at_alone(looked):
    found = look(looked, anything=True, profile="clip", sweeps=True)
    assert found.profiles == {"clip": len(looked.rows)}
    assert set(found.groups[0].samples[0].outcomes) == {"clip"}
    assert all(set(each.reached) == {"clip"} for each in found.sweeps)


def test_what_holds_nothing_says_so(looked):
    found = look(looked, queries=("never found",), bands=(Band("similarity", 2.0, 3.0),))
    assert [group.count for group in found.groups] == [0, 0]
    assert html.render(sheet_page.page(found)).count("There is nothing to show.") == 2
    assert answer.text(found).count("nothing to show") == 2
    assert [row["shown"] for row in answer.rows(found)] == [0, 0]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"queries": ("triangle",)}, "'triangle' is not among the 4 queries"),
        ({"reasons": ("boring",)}, "there are: http_error, low_similarity.*over_query_limit"),
        ({"bands": (Band("beauty", 0, 1),)}, "'beauty' is no score"),
        ({"profile": "best", "anything": True}, "no keep-list of that name; there are: clip, gen"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(looked, asked, message):
    with pytest.raises(ConfigError, match=message):
        look(looked, **asked)


def test_a_run_without_selection_can_be_searched_and_looked_at(looked):
    results = {name: looked.results[name] for name in ("curate", "clip", "embed")}
    asked = Asked(texts=("a thing",), anything=True, sweeps=True, number=3)
    found = sheet.look("looked", results, asked)
    assert [len(group.samples) for group in found.groups] == [3, 3]
    assert found.profiles == {}
    assert found.groups[0].samples[0].cosine == max(s.cosine for s in found.groups[0].samples)


def test_programs_get_one_object_per_sample(looked):
    found = look(looked, texts=("a thing",), sweeps=True, number=3)
    rows = [json.loads(json.dumps(row, allow_nan=False)) for row in answer.rows(found)]
    assert [row["group"] for row in rows[:3]] == ["Nearest to “a thing”"] * 3
    assert [row["cosine"] for row in rows[:3]] == sorted(r["cosine"] for r in rows[:3])[::-1]
    assert [row["score"] for row in rows[3:]] == [each.column for each in found.sweeps]


def test_people_get_lines_that_fit(looked):
    text = answer.text(look(looked, anything=True, sweeps=True, number=40))
    samples = [line for line in text.splitlines() if line.startswith("  ") and "…" in line]
    assert all(len(line) <= answer.WIDTH for line in samples)
    assert "and 28 more, all with --output sheet.html" in text
    assert "generative: unsafe ≤ 0.8, which" in text


def test_only_the_shown_pictures_are_kept_in_memory(looked):
    dataset = Scored(looked.results).dataset
    key = looked.rows[4]["key"]
    assert list(dataset.pictures(0, 16, {key})) == [key]
    assert dataset.pictures(0, 16)[key] == dataset.pictures(0, 16, {key})[key]
