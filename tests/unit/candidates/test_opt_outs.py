import pytest

from pipeline.candidates import opt_outs


@pytest.mark.parametrize(
    "value",
    ["noai", "NoImageAI", "index, noindex", "noimageindex", "none", "otherbot: noai, nofollow",
     "unavailable_after: 25 Jun 2030 15:00:00 PST, noindex"],
)  # fmt: skip
def test_header_values_that_opt_out(value):
    assert opt_outs.header_opts_out(["all", value])


@pytest.mark.parametrize("value", ["", "all", "index, follow", "nofollow", "max-snippet: 20"])
def test_header_values_that_do_not(value):
    assert not opt_outs.header_opts_out([value])


@pytest.mark.parametrize("name", ["robots", " ROBOTS", "googlebot", "CCBot", "anthropic-ai"])
def test_meta_elements_that_speak_to_crawlers_opt_out(name):
    assert opt_outs.meta_opts_out(name, "index, noimageai")
    assert not opt_outs.meta_opts_out(name, "index, follow")


@pytest.mark.parametrize("name", ["", "keywords", "description", "viewport"])
def test_other_meta_elements_do_not(name):
    assert not opt_outs.meta_opts_out(name, "noai, noindex")
