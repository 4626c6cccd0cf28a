"""The jobs that look: what people read, what programs read, what is written, exit codes."""

import json
from pathlib import Path

import pytest

from jobs import card, inspect
from jobs.command import show_job

RUN = str(Path(__file__).resolve().parents[3] / "jobs/configs/real/webdataset.yaml")


def call(job, looked, *arguments):
    where = ["--config", RUN, "--set", f"output_dir={looked.uri}", "--set", "adopt.path=no.tar"]
    return show_job(job.__doc__ or "", job.show, job.add_options, [*where, *arguments])


def test_a_sheet_tells_people_and_programs_and_is_written(looked, tmp_path, capsys):
    output = tmp_path / "sheet.html"
    asked = ["--search-text", "a thing", "--sample", "4", "--query", "star", "--sweeps"]
    assert call(inspect, looked, *asked, "--output", str(output)) == 0
    said = capsys.readouterr()
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert [row.get("group") for row in rows[:8]] == ["Nearest to “a thing”"] * 4 + [
        "Query “star”"
    ] * 4
    assert {"similarity", "unsafe"} <= {row["score"] for row in rows[8:]}
    assert "Query “star”\n  5 samples; clip keeps 5" in said.err
    assert f"{output}: 8 pictures" in said.err
    assert output.read_text().startswith("<!doctype html>")


def test_pairs_and_ways_are_still_one_object_per_line(looked, capsys):
    assert call(inspect, looked, "--key", looked.rows[3]["key"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["stage"] for row in rows] == ["balance", "curate", "embed", "select", "select"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "ConfigError: nothing was asked"),
        (["--sample", "3", "--profile", "best"], "ConfigError: --profile best: no keep-list"),
        (["--near", "beauty=1", "--change", "1"], "ConfigError: 'beauty' is no score"),
    ],
)
def test_what_cannot_be_answered_ends_with_a_usage_error(looked, capsys, arguments, message):
    assert call(inspect, looked, *arguments) == 2
    assert message in capsys.readouterr().err


def test_the_card_is_written_where_it_is_wanted(looked, tmp_path, capsys):
    assert call(card, looked, "--output", str(tmp_path), "--no-tracking") == 0
    (line,) = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert line["num_samples"] == len(looked.rows)
    assert line["card"] == [f"{tmp_path}/card.html", f"{tmp_path}/card.md"]
    assert (tmp_path / "card.md").read_text().startswith("# Data card of looked")
