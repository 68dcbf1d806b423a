"""Text for a person: lines on a terminal, times, durations, speeds and sizes in words."""

from __future__ import annotations

import math
import os
import re
import reprlib
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import typer

_FAR_S = 20 * 3600.0
"""A time of day this many seconds away is given with its weekday, since it could be taken for another day's."""


_YEAR_S = 365.25 * 24 * 3600.0
_MOST_S = 100 * _YEAR_S
"""No moment is told that is further away; calendars end with the year 9999."""
_MAX_DIGITS = 40
"""Whole numbers of more digits are told by their length; Python refuses to write out those of more than 4,300."""


class _Shortened(reprlib.Repr):
    """Writes a value as a study file would, with the middle of what is long left out."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 120
        self.maxlevel = 3

    def repr_bool(self, value: bool, _level: int) -> str:
        """Return a truth value as TOML has it."""
        return str(value).lower()

    def repr_int(self, value: int, _level: int) -> str:
        """Return a whole number, or how long it is."""
        digits = math.ceil(value.bit_length() * math.log10(2))
        if digits > _MAX_DIGITS:
            return f"a number of about {digits:,} digits"
        return repr(value)


_SHORTENED = _Shortened()


def shown(value: object) -> str:
    """Return a value of a study file for a message: `repr`, shortened where it is long."""
    return _SHORTENED.repr(value)


def shortened(text: str, most: int) -> str:
    """Return a text on one line, with its middle left out where it has more than `most` characters."""
    in_one_line = " ".join(text.split())
    if len(in_one_line) <= most:
        return in_one_line
    half = (most - 5) // 2
    return f"{in_one_line[:half]} ... {in_one_line[-half:]}"


def reason(error: BaseException) -> str:
    """Return the class and message of an error on one line, even of one whose message cannot be had."""
    try:
        words = str(error)
    except Exception:  # noqa: BLE001 - whatever a class of someone else raises
        words = ""
    name = type(error).__name__
    return shortened(f"{name}: {words}" if words else name, 400)


def plain(text: str) -> str:
    """Return a text in which control characters, of names for example, cannot steer a terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text)


def say(line: str, end: str = "\n") -> None:
    """Print one line for a person, or a piece of one; control characters in names stay text."""
    try:
        _print(plain(line) + end)
    except (OSError, ValueError):
        # The terminal was closed or the pipe's reader has left: the night goes on without an audience.
        _go_silent()


def _print(text: str) -> None:
    try:
        typer.echo(text, nl=False)
    except UnicodeEncodeError as error:
        typer.echo(text.encode(error.encoding, "replace").decode(error.encoding), nl=False)
    if sys.stdout is not None:
        sys.stdout.flush()


def _go_silent() -> None:
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        # A trainer has closed it.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for as long as the process


def seldom(say: Callable[[str], None], every_s: float = 30.0) -> Callable[[str], None]:
    """Return a `say` that passes on the first line, and later ones only if some time has passed since the last.

    Args:
        say: Takes a line.
        every_s: That time, in seconds.
    """
    said_s = -math.inf

    def now_and_then(line: str) -> None:
        nonlocal said_s
        if time.monotonic() - said_s >= every_s:
            said_s = time.monotonic()
            say(line)

    return now_and_then


def time_of_day(seconds: float, now: datetime | None = None) -> str:
    """Return when something will be, "07:12", or "Sat 07:12" if that is far off.

    Args:
        seconds: Seconds from now.
        now: Local time; the present if None.
    """
    if seconds > _MOST_S:
        return "no date that a calendar has"
    then = (now or datetime.now()) + timedelta(seconds=seconds)
    if seconds < _FAR_S:
        return f"{then:%H:%M}"
    return f"{then:%a %H:%M}"


def moment(unix_s: float) -> str:
    """Return a moment as weekday and local time: "Tue 06:50".

    Args:
        unix_s: Seconds since 1970.

    Raises:
        ValueError, OverflowError, OSError: If there is no such moment.
    """
    return f"{datetime.fromtimestamp(unix_s):%a %H:%M}"


def speed(tokens_per_s: float, unit: str = "tokens") -> str:
    """Return a training speed as a person writes it: "12.3k tokens/s".

    Args:
        tokens_per_s: Tokens a second, or whatever else a training counts.
        unit: What that is.
    """
    # What is rounded up to a thousand of one letter is one of the next.
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if tokens_per_s >= 0.9995 * size:
            return f"{float(f'{tokens_per_s / size:.3g}'):,g}{letter} {unit}/s"

    return f"{tokens_per_s:.3g} {unit}/s"


def duration(seconds: float) -> str:
    """Return a duration as a person says it: "45 s", "12 min" or "7.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def of_seeds(seeds: int) -> str:
    """Return what a trial's loss is, by the number of seeds that it trained on: "one seed" or "mean of 3 seeds"."""
    return "one seed" if seeds == 1 else f"mean of {seeds} seeds"


def done_by(seconds: float, now: datetime, likely_s: float = math.inf) -> str:
    """Return in words when something will be done.

    Args:
        seconds: What it takes at most.
        now: Local time at which it begins.
        likely_s: What it takes if trials are stopped early as usual; infinite if that is not known.
    """
    if seconds > _MOST_S:
        return f"done in {seconds / _YEAR_S:,.0f} years"
    early = now + timedelta(seconds=min(likely_s, seconds))
    late = now + timedelta(seconds=seconds)

    end = f"{late:%H:%M}"
    if late.date() != now.date():
        end += f" on {late:%A}"
    if f"{early:%d %H:%M}" == f"{late:%d %H:%M}":
        return f"done by about {end}"

    begin = f"{early:%H:%M}"
    if early.date() not in (now.date(), late.date()):
        begin += f" on {early:%A}"
    return f"done between about {begin} and {end}: trials that lag behind are stopped early"


def short_number(value: float) -> str:
    """Return a setting's number as a person writes it: three digits, and more where these would make another of it."""
    # Three digits make 1e+03 of 999.9, and a 1 of 0.9996, which no momentum may be.
    digits = (6,) if abs(value) >= 100 else (3, 6, 17)
    written = (f"{value:.{count}g}" for count in digits)
    return next((number for number in written if float(number) != 1 or value == 1), f"{value:g}")


def in_bytes(num_bytes: float) -> str:
    """Return a size on disk as a person says it: "6 MB" or "1.3 GB"."""
    if num_bytes < 1e9:
        return f"{num_bytes / 1e6:.0f} MB"
    return f"{num_bytes / 1e9:.1f} GB"
