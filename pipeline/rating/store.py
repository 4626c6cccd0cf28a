"""One SQLite file per study: what is shown, who rates, every answer; safe for several processes.

An answer is on disk (WAL, synchronous) before the rater sees the next comparison.
"""

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from pipeline.errors import ConfigError
from pipeline.rating.config import Question, StudyConfig
from pipeline.rating.study import Item, Place, Which, places

Choice = Literal["first", "second", "tie"]
SCHEMA = """
CREATE TABLE IF NOT EXISTS study (only_one INTEGER PRIMARY KEY CHECK (only_one = 1), config TEXT);
CREATE TABLE IF NOT EXISTS items (question TEXT, number INTEGER, caption TEXT, first BLOB,
    second BLOB, PRIMARY KEY (question, number));
CREATE TABLE IF NOT EXISTS raters (name TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS answers (rater TEXT, question TEXT, number INTEGER, on_left TEXT,
    choice TEXT, at_s REAL, PRIMARY KEY (rater, question, number));
"""
WAIT_S = 10.0


@dataclass(frozen=True)
class Answer:
    """One judgement."""

    rater: str
    question: Question
    number: int
    on_left: Which
    """The system that stood on the left side."""
    choice: Choice
    at_s: float
    """Unix time of the answer, seconds."""


class Store:
    """A study's database."""

    def __init__(self, path: str) -> None:
        """Open the file, or create it.

        Raises:
            ConfigError: It cannot be opened, or is something else.
        """
        self.path = path
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._sql = sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)
            self._sql.execute("PRAGMA journal_mode=WAL")
            self._sql.executescript(SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"{path}: no database of ratings ({error}); name another") from error

    def close(self) -> None:
        """Close the file."""
        self._sql.close()

    def config(self) -> StudyConfig | None:
        """What the ratings are about; None in a new file.

        Raises:
            ConfigError: Another version wrote it.
        """
        row = self._sql.execute("SELECT config FROM study").fetchone()
        try:
            return None if row is None else StudyConfig.model_validate_json(row[0])
        except ValidationError as error:
            raise ConfigError(f"{self.path}: its study is not understood: {error}") from error

    def begin(self, wanted: StudyConfig, items: Callable[[StudyConfig], Iterable[Item]]) -> None:
        """Fill a new file with what is to be compared, or find the same study there.

        Raises:
            ConfigError: The file holds another study.
        """
        self._sql.execute("BEGIN IMMEDIATE")
        try:
            found = self.config()
            if found is None:
                self._fill(wanted, items(wanted))
            elif found != wanted:
                raise ConfigError(f"{self.path} holds {_difference(found, wanted)}; name another")
            self._sql.execute("COMMIT")
        except BaseException:
            self._sql.execute("ROLLBACK")
            raise

    def _fill(self, config: StudyConfig, items: Iterable[Item]) -> None:
        self._sql.execute("INSERT INTO study VALUES (1, ?)", [config.model_dump_json()])
        rows = ((i.question, i.number, i.caption, i.first, i.second) for i in items)
        self._sql.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?)", rows)

    def places(self, rater: str) -> list[Place]:
        """All comparisons of one rater, in their order."""
        config = self.config()
        assert config is not None  # begun
        counted = self._sql.execute("SELECT question, count(*) FROM items GROUP BY question")
        return places(config, dict(counted.fetchall()), rater)

    def item(self, question: Question, number: int) -> Item:
        """What is shown for one comparison."""
        row = self._sql.execute(
            "SELECT question, number, caption, first, second FROM items "
            "WHERE question = ? AND number = ?",
            [question, number],
        ).fetchone()
        return Item(*row)

    def is_rater(self, name: str) -> bool:
        """Whether somebody has begun under this name."""
        return bool(self._sql.execute("SELECT 1 FROM raters WHERE name = ?", [name]).fetchone())

    def add_rater(self, name: str) -> bool:
        """Begin under a name; False where somebody else has it."""
        added = self._sql.execute("INSERT OR IGNORE INTO raters VALUES (?)", [name])
        return added.rowcount == 1

    def answered(self, rater: str) -> dict[tuple[Question, int], Choice]:
        """A rater's answers so far, by question and number."""
        rows = self._sql.execute(
            "SELECT question, number, choice FROM answers WHERE rater = ?", [rater]
        )
        return {(question, number): choice for question, number, choice in rows}

    def answer(self, rater: str, place: Place, choice: Choice) -> None:
        """Keep an answer; the last one to a comparison counts."""
        self._sql.execute(
            "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?)",
            [rater, place.question, place.number, place.left, choice, time.time()],
        )

    def answers(self) -> list[Answer]:
        """Everything that was answered, in the order of time."""
        return [Answer(*row) for row in self._sql.execute("SELECT * FROM answers ORDER BY at_s")]


@contextmanager
def opened(path: str) -> Iterator[Store]:
    """A database that is there.

    Raises:
        ConfigError: It is not, or is something else.
    """
    if not Path(path).exists():
        raise ConfigError(f"{path} does not exist; begin with jobs.rate --against SYSTEM")
    store = Store(path)
    try:
        yield store
    finally:
        store.close()


def _difference(found: StudyConfig, wanted: StudyConfig) -> str:
    """The first field in which two studies differ, with both values."""
    have, want = found.model_dump(), wanted.model_dump()
    name = next(name for name in have if have[name] != want[name])
    return f"ratings with {name}={have[name]!r}, asked for is {want[name]!r}"
