"""What raters preferred: percent with 95 % intervals, and every answer as a table."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.evaluation.metrics import proportion
from pipeline.rating.store import Answer, Store


def summary(store: Store) -> dict[str, Any]:
    """The study and, per question, how often each system was preferred.

    ``preference`` is the share of the first system among answers that decided, in percent, with
    Wilson's interval over answers; where many raters judged the same few comparisons these are not
    independent and the interval is too narrow (``num_comparisons`` says how many there were).
    ``chose_left`` shows whether sides mattered: far from 50 % they did.

    Raises:
        ConfigError: The file holds no study.
    """
    config, answers = store.config(), store.answers()
    if config is None:
        raise ConfigError(f"{store.path} holds no study; start jobs.rate with --against first")
    return {
        "study": config.model_dump(mode="json"),
        "raters": dict(Counter(answer.rater for answer in answers)),
        "questions": {
            question: _tally([answer for answer in answers if answer.question == question])
            for question in config.questions
        },
    }


def write(store: Store, path: str) -> None:
    """Every answer: as ``.csv``, or with the summary as ``.json``.

    Raises:
        ConfigError: Another ending.
    """
    answers = [asdict(answer) for answer in store.answers()]
    if path.endswith(".json"):
        storage.write_json(path, {**summary(store), "answers": answers})
    elif path.endswith(".csv"):
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(Answer)])
        writer.writeheader()
        writer.writerows(answers)
        storage.write_bytes(path, text.getvalue().encode())
    else:
        raise ConfigError(f"--export {path}: name a file that ends in .csv or .json")


def _tally(answers: Sequence[Answer]) -> dict[str, Any]:
    chosen = Counter(answer.choice for answer in answers)
    decided = [answer for answer in answers if answer.choice != "tie"]
    return {
        "first": chosen["first"],
        "second": chosen["second"],
        "tie": chosen["tie"],
        "num_comparisons": len({answer.number for answer in answers}),
        "preference": _percent(chosen["first"], len(decided)),
        "chose_left": _percent(sum(a.choice == a.on_left for a in decided), len(decided)),
    }


def _percent(hits: int, num: int) -> dict[str, float] | None:
    if num == 0:
        return None
    found = proportion(hits, num)
    values = {"percent": found.value, "low95": found.low95, "high95": found.high95}
    return {name: round(100 * value, 1) for name, value in values.items()}
