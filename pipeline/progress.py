"""Progress for people: a bar with rate and time left on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from tqdm import tqdm

from pipeline.gauges import BarGauges

LINE_EVERY_S = 10.0


@runtime_checkable
class Stream(Protocol):
    """What progress is written to, such as ``sys.stderr``."""

    def write(self, text: str, /) -> int:
        """Write text."""
        ...

    def flush(self) -> None:
        """Send what was written."""
        ...

    def isatty(self) -> bool:
        """Whether a person looks at it."""
        ...


class Bar:
    """One running count, with counted notes such as ``kept`` and ``dropped``."""

    def __init__(self, name: str, total: int, unit: str, stream: Stream) -> None:
        """Open a bar of ``total`` units; lines instead of a bar when the stream is no terminal."""
        self._name, self._total, self._unit, self._stream = name, total, unit, stream
        self._notes: dict[str, int | float | str] = {}
        self._measures: dict[str, int | float] = {}
        self._gauges = BarGauges(name, unit, total)
        self._done = self._before = 0
        self._told: tuple[int, str] | None = None
        self._started = self._last_line = time.monotonic()
        self._bar = (
            tqdm(total=total, desc=name, unit=f" {unit}", file=stream, leave=True)
            if stream.isatty()
            else None
        )
        self._gauges.show(0, {})  # what never takes its first step is seen standing too

    def advance(self, amount: int = 1, **counts: int) -> None:
        """Move on by ``amount`` units and add to the counted notes."""
        for name, count in counts.items():
            self._notes[name] = int(self._notes.get(name, 0)) + count
        self._move(amount)

    def to(self, position: int, **notes: int | float | str) -> None:
        """Move to an absolute position and replace notes, such as a loss."""
        self._notes.update(notes)
        self._move(position - self._done)

    def measure(self, **measures: int | float) -> None:
        """Replace numbers that dashboards show and a line has no room for."""
        self._measures.update(measures)
        self._gauges.show(self._done, {**self._notes, **self._measures})

    def begin(self, position: int) -> None:
        """Start at a position that an earlier call reached, which says nothing of today's rate."""
        self._done = self._before = position
        if self._bar is not None:
            self._bar.initial = self._bar.n = position

    def close(self) -> None:
        """Write the last state."""
        self._gauges.close()
        if self._bar is not None:
            self._bar.close()
        elif self._told != (self._done, self._note_text()):
            self._line()

    def _move(self, amount: int) -> None:
        self._done += amount
        self._gauges.show(self._done, {**self._notes, **self._measures})
        if self._bar is not None:
            self._bar.set_postfix_str(self._note_text(), refresh=False)
            self._bar.update(amount)
        elif time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._line()

    def _note_text(self) -> str:
        return " ".join(
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in self._notes.items()
        )

    def _line(self) -> None:
        self._last_line = time.monotonic()
        self._told = (self._done, self._note_text())
        elapsed = self._last_line - self._started
        rate = (self._done - self._before) / elapsed if elapsed > 0 else 0.0
        left = f" left={(self._total - self._done) / rate:.0f}s" if rate else ""
        text = f"{self._name}: {self._done}/{self._total} {self._unit} {rate:.1f}/s"
        self._stream.write(f"{text} {elapsed:.0f}s{left} {self._note_text()}".rstrip() + "\n")
        self._stream.flush()


class Progress:
    """Where a run tells people how far it is; everything goes to standard error."""

    def __init__(self, stream: Stream | None = None) -> None:
        """Write to ``stream``, standard error by default."""
        self._stream = stream or sys.stderr

    def say(self, text: str) -> None:
        """Write one line."""
        tqdm.write(text, file=self._stream)
        self._stream.flush()

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[Bar]:
        """A bar that is closed when the block ends; what fails in the block names it."""
        bar = Bar(name, total, unit, self._stream)
        try:
            yield bar
        except Exception as error:
            error.add_note(f"in {name}")
            raise
        finally:
            bar.close()
