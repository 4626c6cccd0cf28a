"""Prompts: where they come from and what is refused; imports no torch."""

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import storage
from pipeline.errors import ConfigError, StorageError
from pipeline.generation.config import (
    FilePrompts,
    HeldOutPrompts,
    InlinePrompts,
    PartiPrompts,
    Prompts,
    PromptTable,
)
from pipeline.models.config import CONTEXT_LENGTH
from pipeline.models.tokenizer import tokenizer

Truth = Mapping[str, str | None]
"""What a right picture shows, per attribute."""


@dataclass(frozen=True)
class Prompt:
    """A text to draw, and what a right picture of it shows where that is known."""

    text: str
    truth: Truth | None = None


def read_prompts(config: InlinePrompts | FilePrompts) -> list[Prompt]:
    """Prompts of a run file, of a text file, a Parquet file or PartiPrompts' table, in order.

    Raises:
        ConfigError: The file cannot be read or holds no prompt.
    """
    if isinstance(config, InlinePrompts):
        return [Prompt(text) for text in config.texts]
    if isinstance(config, PromptTable):
        return [Prompt(text) for text in _column(config)]
    try:
        text = Path(config.path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{config.path}: cannot read the prompts: {error}") from error
    if isinstance(config, PartiPrompts):
        return _of_table(config, text)
    found = [Prompt(line.strip()) for line in text.splitlines() if line.strip()]
    if not found:
        raise ConfigError(f"{config.path} holds no prompt; write one per line")
    return found


def _of_table(config: PartiPrompts, text: str) -> list[Prompt]:
    rows = list(csv.DictReader(io.StringIO(text), dialect="excel-tab"))
    for column, wanted in (("Category", config.categories), ("Challenge", config.challenges)):
        known = {row.get(column) for row in rows}
        if missing := [each for each in wanted if each not in known]:
            names = ", ".join(sorted(filter(None, known))) or f"no column {column}"
            raise ConfigError(f"{config.path} has no {column} {missing[0]!r}, only {names}")
        rows = [row for row in rows if not wanted or row.get(column) in wanted]
    found = [Prompt(row["Prompt"].strip()) for row in rows if (row.get("Prompt") or "").strip()]
    if not found:
        raise ConfigError(
            f"{config.path} holds no prompt: expected a TSV file with the columns Prompt, Category "
            "and Challenge, and rows of the chosen ones"
        )
    return found


def _column(config: PromptTable) -> list[str]:
    """The texts of a table, of which none is missing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with storage.open_for_read(config.path) as file:
            table = pq.ParquetFile(file)
            names = table.schema_arrow.names
            if config.column not in names:
                raise ConfigError(
                    f"{config.path} has no column {config.column!r}, it has {', '.join(names)}; "
                    "set prompts.column"
                )
            column = table.read([config.column])[config.column]
    except (OSError, StorageError, pa.ArrowInvalid) as error:
        raise ConfigError(f"{config.path}: cannot read the prompts: {error}") from error
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise ConfigError(f"{config.path}: {config.column} is {column.type}, expected text")
    if not len(column) or column.null_count:
        raise ConfigError(
            f"{config.path}: {config.column} has {column.null_count} empty rows of {len(column)}; "
            "every row needs a prompt"
        )
    return column.to_pylist()


def resolve(config: Prompts, held_out: Sequence[Prompt]) -> list[Prompt]:
    """The configured prompts, all checked.

    Args:
        config: Where prompts come from.
        held_out: The small web's held-out prompts, for ``held_out``.

    Raises:
        ConfigError: There is no prompt, or one is refused.
    """
    found = list(held_out) if isinstance(config, HeldOutPrompts) else read_prompts(config)
    if not found:
        raise ConfigError("prompts.type=held_out needs the small web's prompts; this run has none")
    check([prompt.text for prompt in found])
    return found


def in_turn(prompts: Sequence[Prompt], num_pictures: int) -> list[Prompt]:
    """One prompt per picture: all of them again and again."""
    return list(itertools.islice(itertools.cycle(prompts), num_pictures))


def check(texts: Sequence[object]) -> None:
    """Refuse what CLIP cannot read whole, before anything is computed.

    Raises:
        ConfigError: A prompt is no text, empty, holds control signs, or is too long.
    """
    if not texts:
        raise ConfigError("no prompt given; give at least one text")
    for place, text in enumerate(texts):
        _check_one(text, place)


def _check_one(text: object, place: int) -> None:
    if not isinstance(text, str):
        raise ConfigError(f"prompt {place} is {type(text).__name__}, expected text")
    if not text.strip():
        raise ConfigError(f"prompt {place} is empty; describe a picture")
    if any(ord(sign) < 32 and sign not in "\t\n\r" for sign in text):
        raise ConfigError(f"prompt {place} holds control characters; remove them")
    longest = CONTEXT_LENGTH - 3
    if text.isascii() and len(text) <= longest:  # a token holds a character at least
        return
    # The tokenizer cuts at the context, so a full context may have lost words.
    if len(text) > 100 * CONTEXT_LENGTH or len(tokenizer().encode(text)) >= CONTEXT_LENGTH:
        raise ConfigError(
            f"prompt {place} ({text[:40]!r}…) is longer than the {longest} tokens that CLIP reads; "
            "shorten it"
        )
