"""The table of faults and attacks: which tests hold each row, run and counted."""

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from tests.chaos.kills import Outcome
from tests.tiny_run import ROOT

TABLE = Path(__file__).with_name("matrix.yaml")
HEADS = {"faults": "fault", "security": "attack or leak"}


@dataclass(frozen=True)
class Row:
    """One fault, what is promised, and what holds it."""

    table: str
    name: str
    fault: str
    promise: str
    tests: tuple[str, ...] = ()
    kills: str | None = None
    """Who is struck by the seeded kills that count here."""
    why: str | None = None
    """Why nothing holds it."""


def rows() -> list[Row]:
    """All rows, in order."""
    tables: dict[str, dict[Any, dict[str, Any]]] = yaml.safe_load(TABLE.read_text())
    return [
        Row(table, str(name), **{**values, "tests": tuple(values.get("tests", ()))})
        for table, found in tables.items()
        for name, values in found.items()
    ]


def chosen(names: str | None) -> list[Row]:
    """Rows by their names, with commas between, ``5-9`` for several; all by default."""
    if names is None:
        return rows()
    wanted: set[str] = set()
    for name in names.split(","):
        first, _, last = name.partition("-")
        numbered = first.isdigit() and last.isdigit()
        wanted |= set(map(str, range(int(first), int(last) + 1))) if numbered else {name}
    unknown = wanted - {row.name for row in rows()} - set(HEADS)
    if unknown:
        raise SystemExit(f"no such rows: {', '.join(sorted(unknown))}")
    return [row for row in rows() if row.name in wanted or row.table in wanted]


def run_tests(wanted: Sequence[Row]) -> dict[str, Counter[str]]:
    """Run every test of some rows once; outcomes by test, parameters added up.

    Raises:
        SystemExit: A test is named that does not exist.
    """
    names = sorted({test for row in wanted for test in row.tests}, key=_place)
    with tempfile.NamedTemporaryFile(suffix=".xml") as told:
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={told.name}", *names]
        # A process of its own: its hooks want to be there before what they watch is imported.
        code = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False).returncode
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            raise SystemExit(f"pytest ended with {code}")
        return outcomes_in(ElementTree.parse(told.name))


def _place(test: str) -> tuple[str, int]:
    """Its file and where in it: later ones may stand on what earlier ones left."""
    file, _, name = test.partition("::")
    return file, (ROOT / file).read_text().find(f"def {name}(")


def outcomes_in(told: ElementTree.ElementTree) -> dict[str, Counter[str]]:
    """Outcomes by test, of JUnit's XML as pytest writes it."""
    found: dict[str, Counter[str]] = {}
    for case in told.iter("testcase"):
        file = case.attrib["classname"].replace(".", "/") + ".py"
        kinds = {child.tag for child in case}
        outcome = "skipped" if "skipped" in kinds else "passed"
        if kinds & {"failure", "error"}:
            outcome = "failed"
        test = f"{file}::{case.attrib['name'].partition('[')[0]}"
        found.setdefault(test, Counter())[outcome] += 1
    return found


def markdown(
    wanted: Sequence[Row],
    outcomes: Mapping[str, Counter[str]],
    kills: Mapping[str, Sequence[Outcome]],
) -> str:
    """Both tables, as Markdown.

    Args:
        wanted: The rows.
        outcomes: Of each test, parameters added up.
        kills: Of each kind of victim.
    """
    lines: list[str] = []
    for table, head in HEADS.items():
        found = [row for row in wanted if row.table == table]
        if found:
            lines += ["", f"| | {head} | promise | tried | held |", "|---|---|---|---|---|"]
            lines += [_line(row, outcomes, kills) for row in found]
    return "\n".join(lines[1:]) + "\n"


def _line(
    row: Row, outcomes: Mapping[str, Counter[str]], kills: Mapping[str, Sequence[Outcome]]
) -> str:
    if row.why is not None:
        return f"| {row.name} | {row.fault} | {row.promise} | – | {row.why} |"
    counted = sum((outcomes.get(test, Counter()) for test in row.tests), Counter[str]())
    struck = kills.get(row.kills or "", ())
    survived = [kill for kill in struck if not kill.difference]
    tried, held = counted.total() - counted["skipped"] + len(struck), counted["passed"]
    notes = [f"{len(struck)} of them kills"] if struck else []
    notes += [f"{counted['skipped']} skipped"] if counted["skipped"] else []
    more = f" ({', '.join(notes)})" if notes else ""
    result = "all" if held + len(survived) == tried > 0 else f"**{held + len(survived)}**"
    return f"| {row.name} | {row.fault} | {row.promise} | {tried}{more} | {result} |"


def misses(outcomes: Mapping[str, Counter[str]], kills: Iterable[Outcome]) -> list[str]:
    """What did not hold."""
    tests = [test for test, counts in outcomes.items() if counts["failed"]]
    return tests + [f"{kill.kill}: {kill.difference}" for kill in kills if kill.difference]
