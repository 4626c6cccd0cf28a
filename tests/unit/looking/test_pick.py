"""Parts of a data set are counted exactly, and shown by samples of theirs."""

from collections import Counter

import pytest

from pipeline.errors import ConfigError
from pipeline.looking.asked import Band, Near
from pipeline.looking.pick import Parts, say_outcomes
from pipeline.looking.scores import Scored

PROFILES = ["clip", "generative"]


def counted(looked, parts):
    for shard in Scored(looked.results):
        for part in parts:
            part.add(shard)
    return parts


def check(looked, part, holds):
    """Count, outcomes and drawn samples are those of the rows that hold."""
    rows = [row for row in looked.rows if holds(row)]
    assert part.count == len(rows)
    for profile in PROFILES:
        expected = Counter(row["outcomes"][profile] for row in rows)
        assert part.outcomes[profile] == expected
    places = part.drawn.things()
    assert len(places) == min(3, len(rows))
    assert {(p.shard, p.key) for p in places} <= {(row["shard"], row["key"]) for row in rows}


@pytest.fixture
def make(looked):
    return Parts(Scored(looked.results), 3, 0, PROFILES)


def test_all_samples(looked, make):
    (part,) = counted(looked, [make.anything()])
    assert part.count == len(looked.rows) > 0
    check(looked, part, lambda row: True)


@pytest.mark.parametrize("query", [0, 1, 2, 3])
def test_samples_of_a_query(looked, make, query):
    (part,) = counted(looked, [make.query("q", query)])
    assert (part.count > 0) == (query != 1), "no sample is of query 1"
    check(looked, part, lambda row: query in row["queries"])


def test_samples_of_a_drop_reason(looked, make):
    (part,) = counted(looked, [make.reason("generative", "out_of_bounds_aesthetic")])
    assert part.count > 0
    check(looked, part, lambda r: r["outcomes"]["generative"] == "out_of_bounds_aesthetic")


def test_a_band_holds_its_lower_end_and_not_its_upper_one(looked, make):
    values = sorted(row["aesthetic"] for row in looked.rows)
    low, high = values[10], values[30]
    (part,) = counted(looked, [make.band(Band("aesthetic", low, high))])
    assert part.count == 20
    check(looked, part, lambda row: low <= row["aesthetic"] < high)


def test_a_lower_bound_that_falls_admits_and_one_that_rises_drops(looked, make):
    bound = sorted(row["aesthetic"] for row in looked.rows)[25]
    added, lost = counted(looked, make.near(Near("aesthetic", bound, 0.2)))
    check(looked, added, lambda row: bound - 0.2 <= row["aesthetic"] < bound)
    check(looked, lost, lambda row: bound <= row["aesthetic"] < bound + 0.2)
    assert "Passes only with aesthetic ≥" in added.title
    assert "generative has aesthetic ≥ 0.3" in added.note
    now = sum(row["aesthetic"] >= bound for row in looked.rows)
    assert now + added.count == sum(row["aesthetic"] >= bound - 0.2 for row in looked.rows)
    assert now - lost.count == sum(row["aesthetic"] >= bound + 0.2 for row in looked.rows)


def test_an_upper_bound_works_the_other_way_round(looked, make):
    values = [row["unsafe"] for row in looked.rows if row["unsafe"] is not None]
    bound = sorted(values)[25]
    added, lost = counted(looked, make.near(Near("unsafe", bound, 0.1)))
    now = sum(value <= bound for value in values)
    assert now + added.count == sum(value <= round(bound + 0.1, 12) for value in values)
    assert now - lost.count == sum(value <= round(bound - 0.1, 12) for value in values)
    assert "Passes only with unsafe ≤" in added.title


def test_ends_of_a_change_are_round(looked, make):
    added, lost = make.near(Near("similarity", 0.28, 0.02))
    assert added.title.startswith("Passes only with similarity ≥ 0.26: ")
    assert lost.title.startswith("Falls with similarity ≥ 0.3: ")


def test_an_unknown_score_is_refused(make):
    with pytest.raises(ConfigError, match="'beauty' is no score of this run"):
        make.near(Near("beauty", 1.0, 0.5))


def test_outcomes_in_words():
    outcomes = {"b": Counter(kept=2), "a": Counter(kept=1, too_small=3, low_similarity=2)}
    expected = "a keeps 1, drops 5 (low similarity 2, too small 3); b keeps 2"
    assert say_outcomes(outcomes) == expected
