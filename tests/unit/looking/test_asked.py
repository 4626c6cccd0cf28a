"""The command line's words become one question, or are refused with a remedy."""

import argparse
import math

import pytest

from jobs.inspect import add_options
from pipeline.errors import ConfigError
from pipeline.looking.asked import Band, Near, from_options


def asked(*arguments):
    parser = argparse.ArgumentParser()
    add_options(parser)
    options = vars(parser.parse_args(arguments))
    ways = ("url", "uid", "key", "rejects")
    return from_options(options, is_way=any(options[name] is not None for name in ways))


@pytest.mark.parametrize(
    "arguments",
    [["--url", "http://a.example/"], ["--key", "x"], ["--rejects"], ["--query", "circle"]],
)
def test_the_way_of_one_and_pairs_of_a_query_are_no_sheet(arguments):
    assert asked(*arguments) is None


def test_everything_goes_together():
    found = asked(
        *("--search-text", "a", "--search-text", "b", "--search-picture", "c.jpg"),
        *("--sample", "7", "--query", "circle", "--reason", "removed", "--score", "similarity"),
        *("--band", "0.2:0.25", "--band", ":0.1", "--near", "aesthetic=5", "--change", "0.5"),
        *("--sweeps", "--profile", "clip", "--seed", "3"),
    )
    assert found is not None
    assert (found.texts, found.pictures) == (("a", "b"), ("c.jpg",))
    assert (found.queries, found.reasons) == (("circle",), ("removed",))
    expected = (Band("similarity", 0.2, 0.25), Band("similarity", -math.inf, 0.1))
    assert found.bands == expected
    assert found.nears == (Near("aesthetic", 5.0, 0.5),)
    assert (found.number, found.seed, found.profile, found.sweeps) == (7, 3, "clip", True)
    assert not found.anything


def test_a_sample_of_nothing_named_is_one_of_everything():
    found = asked("--sample", "5")
    assert found is not None
    assert found.anything


def test_a_search_shows_as_many_as_the_limit():
    found = asked("--search-text", "a", "--limit", "9")
    assert found is not None
    assert found.number == 9
    assert not found.anything


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing was asked; --help"),
        (["--key", "x", "--sweeps"], "stand alone"),
        (["--key", "x", "--query", "y"], "stand alone"),
        (["--reason", "removed"], "add --sample 20"),
        (["--query", "x", "--sweeps"], "add --sample 20"),
        (["--sample", "3", "--band", "0:1"], "--score and --band belong together"),
        (["--sample", "3", "--score", "similarity"], "--score and --band belong together"),
        (["--sample", "3", "--score", "x", "--band", "1:0"], "low below high"),
        (["--sample", "3", "--score", "x", "--band", "0.5"], "expected low:high"),
        (["--sample", "3", "--score", "x", "--band", "a:b"], "expected low:high"),
        (["--near", "similarity=0.28"], "--change is missing"),
        (["--near", "similarity=0.28", "--change", "-1"], "--change is -1"),
        (["--near", "similarity", "--change", "1"], "expected score=bound"),
        (["--near", "similarity=nan", "--change", "1"], "expected score=bound"),
        (["--query", "x", "--output", "a.html"], "--output a.html: nothing to put on a sheet"),
        (["--key", "x", "--profile", "clip"], "--profile clip: nothing to put on a sheet"),
        (["--sample", "0"], "--sample 0: at least 1"),
        (["--search-text", "a", "--limit", "0"], "--limit 0: at least 1"),
    ],
)
def test_what_does_not_go_together_is_refused_with_a_remedy(arguments, message):
    with pytest.raises(ConfigError, match=message):
        asked(*arguments)
