"""What a command tells while it tunes: how far it is, where it goes on, what may disappoint; and Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from paintover.cli.shared import Interrupted, progress, tell
from paintover.editors import knobs as knobs_of
from paintover.editors import registry
from paintover.errors import Cancelled

if TYPE_CHECKING:
    from paintover.picture.limits import Limits

_EVERY = 30.0  # seconds between lines of progress where stderr is no terminal
_LONG = 10.0  # seconds that are worth saying beforehand
_TOGETHER = "class pictures"  # a stage that reports after every few: its first report says nothing of an earlier run


class Teller:
    """Takes the reports of an edit or a tuning, and says them: `bar` is told each; without one, a line now and then.

    notes: what to say as soon as a tuning has begun. clock: seconds. tuning: whether one was heard of.
    """

    def __init__(
        self,
        what: str,
        bar: Callable[[Any], None] | None = None,
        notes: Callable[[], Iterable[str]] = tuple,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what, self.tuning = what, False
        self._bar, self._notes, self._clock = bar, notes, clock
        self._stage, self._began, self._first, self._last, self._said = "", 0.0, 0, -1, clock()
        self._pressed = threading.Event()

    def on_step(self, report: Any) -> None:
        now = self._clock()
        if report.what and not self.tuning:
            self.tuning = True
            for note in self._notes():
                tell(f"paintover: note: {note}")
            if report.i and report.what != _TOGETHER:
                tell(f"{report.what}: going on at iteration {report.i + 1} of {report.total}")
        if self._bar is not None:
            self._bar(report)
        if self._last < 0 or report.what != self._stage or report.i <= self._last:
            self._stage, self._began, self._first, self._last = report.what, now, report.i, report.i
            return
        made = report.i - self._first
        takes = (now - self._began) / made
        left = takes * (report.total - 1 - report.i)
        self._last = report.i
        if made == 2 and report.what and left > _LONG:  # the first one warms up, and is not counted
            tell(
                f"{report.what}: {report.total - self._first} iterations take about {time_of(left + 3 * takes)} on this machine"
            )
            self._said = now
        elif self._bar is None and now - self._said > _EVERY:
            self._said = now
            tell(f"{report.what or self.what}: {report.i + 1} of {report.total}, about {time_of(left)} left")

    def cancelled(self) -> bool:
        return self._pressed.is_set()

    def press(self, number: int = 0, frame: Any = None) -> None:
        """Ctrl-C. While it tunes, the first one waits for the iteration's end, so that all of it is kept."""
        if not self.tuning or self._pressed.is_set():
            raise KeyboardInterrupt
        self._pressed.set()
        tell("stopping after this iteration (Ctrl-C again: at once) ...")


@contextmanager
def telling(what: str, notes: Callable[[], Iterable[str]] = tuple) -> Iterator[Teller]:
    """A Teller, with a bar where stderr is a terminal, that Ctrl-C is heard by."""
    teller = Teller(what, notes=notes)
    try:
        with progress(what) as teller._bar, _signals(teller.press):
            yield teller
    except (Cancelled, KeyboardInterrupt) as ended:
        if not teller.tuning:
            raise KeyboardInterrupt from None
        about = "" if isinstance(ended, Cancelled) else "about "
        raise Interrupted(f"the same command goes on {about}where it was") from None


@contextmanager
def _signals(press: Callable[[int, Any], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, press) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def notes_of(
    given: Iterable[str], editor: str, knobs: Mapping[str, Any], model: str, device: str | None, limits: Limits
) -> list[str]:
    """What lets little be learnt of these pictures by these knobs, which have been checked, and the model loaded."""
    from paintover import picture as pictures
    from paintover.models.bundle import load

    bundle = load(model, device=device)
    notes = []
    for path in given:
        seen = pictures.open(path, limits)
        (height, width), side = seen.size_HW, bundle.size
        if 4 * height * width <= side * side:
            notes.append(f"{path} has {width} x {height} pixels, and the model {side} x {side}: a larger picture shows it more")
        if max(height, width) > 4 * min(height, width):
            notes.append(f"{path} ({width} x {height}) is much longer than what models know; crop it for a better likeness")
        if seen.alpha_HW is not None and not seen.alpha_HW.any():
            notes.append(f"{path} is wholly transparent: what is learnt are colours that nobody sees")
    tuning: Any = registry.get(editor)
    asked = {name: value for name, value in knobs.items() if name in tuning.Tuning.model_fields}
    usual = knobs_of.read(editor, tuning.Tuning, {}, bundle.defaults.get(editor, {}))
    chosen = knobs_of.read(editor, tuning.Tuning, asked)
    for name in asked:
        few, enough = getattr(chosen, name), getattr(usual, name)
        if name.endswith("iterations") and 4 * few < enough:
            notes.append(f"{name} {few} is little ({enough} is usual): the picture will hardly be learnt")
    return notes


def time_of(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
