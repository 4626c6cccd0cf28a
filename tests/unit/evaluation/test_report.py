import io
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.curation.extrapolation import Estimate as Expected
from pipeline.curation.pilot import Pilot
from pipeline.evaluation import report_queries, report_sections, svg
from pipeline.evaluation.judges import confusion
from pipeline.evaluation.metrics import Estimate, proportion
from pipeline.evaluation.report import render, write_report
from pipeline.evaluation.report_data import (
    SECTIONS,
    Curve,
    DuplicateGroups,
    Duplicates,
    Funnel,
    Headline,
    Limit,
    Lines,
    NamedConfusion,
    Neighbour,
    QueryCount,
    QueryYields,
    ReportData,
    Score,
    ScoreTable,
    ShownPicture,
    StageCost,
    Thumbnail,
)
from tests.well_formed import checked

QUERIES = QueryYields(
    facts={
        "limit": 40.0,
        "unmatched_share": 0.25,
        "num_queries": 3,
        "num_matched": 2,
        "num_head": 1,
        "largest_matched": 1000,
        "largest_kept": 41,
        "num_above_limit": 1,
        "tail_share_before": 0.003,
        "tail_share_after": 0.07,
        "largest_owned": 40,
        "sources": {"0-<list>": {"num_queries": 3, "num_matched": 2, "matched": 1003, "kept": 44}},
    },
    before=[1000.0, 3.0],
    after=[41.0, 3.0],
    most_frequent=[
        QueryCount("shape", "0-<list>", 1000, 40, 41, None),
        QueryCount("star", "0-<list>", 3, 3, 3, None),
    ],
)


def jpeg():
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def data():
    image = jpeg()
    pairs = [("red", "red"), ("red", None), ("blue", "red")]
    return ReportData(
        title="A <small> web & more",
        subtitle="Five models",
        facts=[("Seed", "0")],
        headlines=[Headline("Colour right", "83.2 %", "n = 256")],
        pilot=Pilot(
            sample=0.001,
            candidates=1_000_000,
            num_used=1000,
            estimates={"cost": Expected(12.5, 11.0, 14.0, "money", "at <1> per hour")},
            dropped={"dns_error": Expected(7000.0, 4000.0, 11000.0, "pairs")},
            unseen_high95=3827.0,
        ),
        score_tables=[
            ScoreTable(
                "Held out",
                "256 pictures",
                [
                    Score("colour", proportion(213, 256), chance=0.125),
                    Score("PSNR", Estimate(27.41, 26.8, 28.0, 64), is_share=False),
                    Score("lost", Estimate(-0.01, -0.05, 0.03, 256)),
                ],
            )
        ],
        confusions=[NamedConfusion("colour", confusion("colour", pairs))],
        lines=[
            Lines(
                "recall <own CLIP>",
                "guidance scale",
                [1.0, 2.0, 4.0],
                {
                    "unclip": [Estimate(v, v - 0.1, v + 0.1, 9) for v in (0.9, 0.8, 0.4)],
                    "caption <only>": [Estimate(v, v - 0.1, v + 0.1, 9) for v in (0.8, 0.5, 0.2)],
                },
            )
        ],
        sheets=[Thumbnail(image, "inverted <sheet>")],
        limits=[
            Limit("what is <near>", "measured; see above", is_measured=True),
            Limit("what binds", "not measured: python -m jobs.evaluate", is_measured=False),
        ],
        gallery=[
            ShownPicture(image, 'a "red" circle', "red", True, [Neighbour(image, 0.987)]),
            ShownPicture(image, "<script>alert(1)</script>", "none", False),
        ],
        curves=[Curve("prior", [0.0, 512.0, 1024.0], [3.0, float("nan"), 1.0], "1,024 samples")],
        funnel=Funnel(10, 6, {"http_error": 3, "too_small": 1}, 5),
        queries=QUERIES,
        kept=[Thumbnail(image, "kept one")],
        dropped={"too_small": [Thumbnail(image, "tiny")]},
        duplicates=DuplicateGroups(
            num_groups=5,
            num_pictures=1234,
            shown=[
                Duplicates(700, [Thumbnail(image, "kept"), Thumbnail(image, "near <duplicate>")])
            ],
        ),
        costs=[StageCost("train_prior", 95.0, 3 << 30), StageCost("embed", 2.0, None, "skipped")],
    )


def test_the_report_is_one_well_formed_file_without_scripts_or_outside_references(data):
    text = render(data)
    checker = checked(text)
    assert "script" not in checker.tags
    assert "link" not in checker.tags
    assert all(source.startswith("data:image/") for source in checker.sources)
    assert not re.search(r"https?://", text)
    assert "url(" not in text


def test_every_link_of_the_contents_has_its_section_in_order(data):
    checker = checked(render(data))
    assert [link.removeprefix("#") for link in checker.links] == list(SECTIONS)
    assert checker.ids == list(SECTIONS)


def test_everything_that_was_given_is_shown_and_escaped(data):
    text = render(data)
    for expected in (
        "A &lt;small&gt; web &amp; more",
        "&lt;script&gt;alert(1)&lt;/script&gt;",
        "a &quot;red&quot; circle",
        "83.2 %",
        "This run used 0.1 % of the pictures: 1,000 pairs that stand for 1,000,000 candidates",
        "at &lt;1&gt; per hour",
        "11.00 – 14.00",
        "dns error",
        "4,000 pairs – 11,000 pairs",
        "– http error",
        "27.41",
        "−1.0 %",
        "0.987",
        "Dropped: too small",
        "1 min 35 s",
        "3 GiB",
        "skipped",
        "1,024 samples",
        "what is &lt;near&gt;",
        '<td class="soft">not measured: python -m jobs.evaluate</td>',
    ):
        assert expected in text, expected


def test_a_missing_section_states_its_reason_and_an_unexplained_one_is_left_out(data):
    partial = replace(
        data,
        score_tables=[],
        confusions=[],
        queries=None,
        missing={"scores": "Nothing judges photographs."},
    )
    checker = checked(render(partial))
    assert "Nothing judges photographs." in render(partial)
    assert "scores" in checker.ids
    assert "queries" not in checker.ids


def test_an_empty_report_still_reads(data):
    page = render(ReportData("t", "s", []))
    assert checked(page).ids == []
    assert ">t</h1>" in page


def test_the_file_is_written_whole(data, tmp_path):
    uri = str(tmp_path / "report.html")
    write_report(data, uri)
    assert (tmp_path / "report.html").read_text() == render(data)


def test_queries_that_found_nothing_have_a_plot_too(data):
    found = replace(QUERIES, before=[], after=[], most_frequent=[])
    assert "<svg" in report_queries.queries(replace(data, queries=found))


def test_funnel_bars_have_the_length_of_their_share(data):
    widths = re.findall(r"width:([\d.]+)%\"></i>", report_sections.funnel(data))
    assert [float(width) for width in widths] == [100.0, 30.0, 10.0, 60.0]


def test_intervals_of_a_line_reach_from_end_to_end():
    drawn = svg.interval_lines([1, 3], {"a": [(0, -1, 1), (2, 2, 2)]}, "x", "y")
    spans = re.findall(r'y1="([\d.]+)" y2="([\d.]+)" class="series-1 span"', drawn)
    lengths = [float(low) - float(high) for high, low in spans]
    frame = svg.Frame(width=360, height=240, left=58)
    inside = frame.y(0.0) - frame.y(1.0)
    assert lengths == [pytest.approx(inside * 2 / 3.3, abs=0.2), 0]  # 3 and a margin of 5 % each


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_ticks_are_round_and_lie_inside_the_axis(a, b):
    scale = svg.Scale(min(a, b), max(a, b))
    slack = 1e-9 * max(1.0, abs(a), abs(b))
    ticks = scale.ticks()
    assert len(ticks) <= 6
    assert all(scale.low - slack <= tick <= scale.high + slack for tick in ticks)


@given(st.integers(0, 3), st.integers(3, 9))
def test_logarithmic_ticks_are_powers_of_ten(low, high):
    ticks = svg.Scale(10.0**low, 10.0**high, is_log=True).ticks()
    assert 1 <= len(ticks) <= 7
    assert all(tick in {10.0**power for power in range(10)} for tick in ticks)


def test_a_scale_maps_its_ends_to_0_and_1():
    for is_log in (False, True):
        scale = svg.Scale(1.0, 100.0, is_log)
        assert (scale.share(1.0), scale.share(100.0), scale.share(1e9)) == (0, 1, 1)
    assert svg.Scale(1.0, 100.0, is_log=True).share(10.0) == pytest.approx(0.5)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=300))
def test_smoothing_keeps_length_and_range(values):
    found = svg.smoothed(values)
    assert len(found) == len(values)
    assert min(values) - 1e-9 <= min(found) <= max(found) <= max(values) + 1e-9


def test_long_series_are_thinned_with_both_ends_kept():
    found = svg.thinned([float(n) for n in range(5000)])
    assert (len(found), found[0], found[-1]) == (svg.MAX_POINTS, 0.0, 4999.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s"), (11_400, "3 h 10 min")],
)
def test_durations_read_as_people_say_them(seconds, text):
    assert report_sections.duration(seconds) == text
