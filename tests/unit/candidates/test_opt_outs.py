import pytest

from pipeline.candidates import opt_outs


@pytest.mark.parametrize(
    "value",
    ["noai", "NoImageAI", "index, noindex", "noimageindex", "none", "otherbot: noai, nofollow",
     "unavailable_after: 25 Jun 2030 15:00:00 PST, noindex", "noindex nofollow",
     "somebot: noai", "somebot : noai", "somebot:noai", "unknown-agent: noimageai",
     "googlebot: none", "GPTBot: nofollow, none", "max-image-preview: large, none",
     "max-image-preview:none, noindex", "max-snippet:-1 noai"],
)  # fmt: skip
def test_header_values_that_opt_out(value):
    assert opt_outs.header_opts_out(["all", value])


@pytest.mark.parametrize(
    "value",
    ["", "all", "index, follow", "nofollow", "max-snippet: 20", "max-image-preview:none",
     "max-image-preview: none", "Max-Image-Preview : NONE", "googlebot: max-image-preview: none",
     "max-video-preview:none, follow", "unavailable_after: none", "some-new-directive: none",
     "nonesuch", "noarchive, nosnippet"],
)  # fmt: skip
def test_header_values_that_do_not(value):
    assert not opt_outs.header_opts_out([value])


ROBOTS = ["robots", " ROBOTS", "googlebot", "CCBot", "anthropic-ai", "ChatGPT-User",
          "perplexity-user", "OAI-SearchBot", "meta-externalagent", "facebookexternalhit",
          "ia_archiver", "Omgili", "omgilibot", "Applebot-Extended", "imagesiftbot", "img2dataset",
          "Google-Extended", "bingbot", "Bytespider", "Slurp", "cohere-ai"]  # fmt: skip


@pytest.mark.parametrize("name", ROBOTS)
def test_meta_elements_that_speak_to_crawlers_opt_out(name):
    assert opt_outs.meta_opts_out(name, "index, noimageai")
    assert opt_outs.meta_opts_out(name, "none")
    assert opt_outs.meta_opts_out(name, "noai, and what nobody has heard of")
    for content in ("index, follow", "max-image-preview:none", "max-image-preview: none", ""):
        assert not opt_outs.meta_opts_out(name, content)


@pytest.mark.parametrize("name", ["unheard-of", "Kangaroo", "some_agent", "360thing"])
def test_directives_to_an_agent_nobody_has_heard_of_count(name):
    for content in ("noai", "index, follow, NoImageAI", "noindex nofollow", "noai,max-snippet:5"):
        assert opt_outs.meta_opts_out(name, content)


@pytest.mark.parametrize("name", ["unheard-of", "Kangaroo"])
@pytest.mark.parametrize("content", ["none", "nofollow, none", "noai is a word", "we say noindex",
                                     "nofollow", "max-image-preview:none"])  # fmt: skip
def test_other_texts_under_such_a_name_do_not(name, content):
    assert not opt_outs.meta_opts_out(name, content)


@pytest.mark.parametrize(
    "name",
    ["", "keywords", "description", "viewport", "Author", "twitter:title", "og:title",
     "DC.subject", "article tag"],
)  # fmt: skip
def test_other_meta_elements_do_not(name):
    for content in ("noai, noindex", "none", "noai"):
        assert not opt_outs.meta_opts_out(name, content)


@pytest.mark.parametrize(
    ("long", "opts_out"),
    [(" ", True), (":", True), (" :", True), ("x:", True), (", ", True),
     ("bot-", False), ("bot\n-", False)],
)  # fmt: skip
@pytest.mark.parametrize("num", [3, 200_000])
def test_a_value_is_read_the_same_however_long_it_is(long, opts_out, num):
    # Some of the long ones never end where the work grows with the square of the length.
    value = f"no{long * num}noai"
    assert opt_outs.meta_opts_out("robots", value) is opts_out
    assert opt_outs.header_opts_out([value]) is opts_out
    assert not opt_outs.meta_opts_out(f"{long * num}\n", value)


@pytest.mark.parametrize("long", [" ", ":", " :", "bot-", "bot\n-", "x:", ", "])
def test_a_name_that_is_too_long_is_no_robots(long):
    assert not opt_outs.header_opts_out([f"no{long * 200_000}noai:none"])
