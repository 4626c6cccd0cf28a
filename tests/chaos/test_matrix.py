"""The table of faults names tests that exist, and counts what they did."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.chaos import matrix
from tests.chaos.kills import Outcome
from tests.chaos.moments import VICTIMS
from tests.tiny_run import ROOT

FAULTS = [str(number) for number in range(1, 23)]


def test_every_row_has_a_test_or_a_reason():
    found = matrix.rows()
    assert [row.name for row in found if row.table == "faults"] == FAULTS
    assert len(found) == len({row.name for row in found})
    for row in found:
        assert bool(row.tests) != bool(row.why), row.name
        assert row.kills is None or row.kills in VICTIMS, row.name
        assert len(row.tests) == len(set(row.tests)), row.name


def test_every_named_test_is_one_that_pytest_collects():
    functions: dict[str, set[str]] = {}
    for test in {test for row in matrix.rows() for test in row.tests}:
        file, _, name = test.partition("::")
        assert file.startswith("tests/"), test
        assert Path(file).name.startswith("test_"), test
        if file not in functions:
            body = ast.parse((ROOT / file).read_text()).body
            functions[file] = {each.name for each in body if isinstance(each, ast.FunctionDef)}
        assert name.startswith("test_"), test
        assert name in functions[file], test


def test_tests_run_in_the_order_of_their_files():
    here = "tests/chaos/test_matrix.py::"
    first, second = "what_was_not_run_is_no_success", "outcomes_are_read_as_pytest_writes_them"
    names = [f"{here}test_{name}" for name in (second, first)]
    assert sorted(names, key=matrix._place) == names[::-1]


def test_rows_are_chosen_by_name_number_and_table():
    assert [row.name for row in matrix.chosen("7,9-11,secrets")] == [
        "7",
        "9",
        "10",
        "11",
        "secrets",
    ]
    assert len(matrix.chosen("faults")) == 22
    assert matrix.chosen(None) == matrix.rows()
    with pytest.raises(SystemExit, match="no such rows: 23"):
        matrix.chosen("22,23")


def test_the_table_counts_what_was_tried_and_marks_what_did_not_hold():
    row = matrix.Row("faults", "1", "a kill", "the same", ("a", "b"), kills="worker")
    nothing = matrix.Row("security", "x", "a leak", "nothing", why="not built")
    outcomes = {"a": Counter(passed=3), "b": Counter(passed=1, skipped=2)}
    kills = [Outcome("worker at 5%", True, 2, "", 1.0), Outcome("worker at 9%", True, 2, "", 1.0)]
    text = matrix.markdown([row, nothing], outcomes, {"worker": kills})
    assert "| 1 | a kill | the same | 6 (2 of them kills, 2 skipped) | all |" in text
    assert "| x | a leak | nothing | – | not built |" in text
    assert matrix.misses(outcomes, kills) == []
    outcomes["a"]["failed"] += 1
    kills.append(Outcome("worker at 7%", True, 3, "manifests differ", 1.0))
    text = matrix.markdown([row], outcomes, {"worker": kills})
    assert "| 8 (3 of them kills, 2 skipped) | **6** |" in text
    assert matrix.misses(outcomes, kills) == ["a", "worker at 7%: manifests differ"]


def test_what_was_not_run_is_no_success():
    row = matrix.Row("faults", "1", "a kill", "the same", ("a",))
    assert "| 0 | **0** |" in matrix.markdown([row], {}, {})


def test_outcomes_are_read_as_pytest_writes_them(tmp_path):
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('n', [1, 2, 3])\n"
        "def test_a(n):\n    assert n < 3\n"
        "@pytest.fixture\ndef broken():\n    raise OSError\n"
        "def test_b(broken):\n    pass\n"
        "@pytest.mark.skip\ndef test_c():\n    pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "--junitxml=told.xml", "-p", "no:jaxtyping"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert matrix.outcomes_in(ElementTree.parse(tmp_path / "told.xml")) == {
        "test_some.py::test_a": Counter(passed=2, failed=1),
        "test_some.py::test_b": Counter(failed=1),
        "test_some.py::test_c": Counter(skipped=1),
    }
