"""Text for a person: lines on a terminal, times, durations, speeds and sizes in words."""

from __future__ import annotations

import math
import os
import re
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import typer

_FAR_S = 20 * 3600.0
"""A time of day this many seconds away is given with its weekday, since it could be taken for another day's."""


def plain(text: str) -> str:
    """Return a text in which control characters, of names for example, cannot steer a terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text)


def say(line: str, end: str = "\n") -> None:
    """Print one line for a person, or a piece of one; control characters in names stay text."""
    try:
        typer.echo(plain(line) + end, nl=False)
        sys.stdout.flush()
    except OSError:
        # The terminal was closed or the pipe's reader has left: the night goes on without an audience.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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


def speed(tokens_per_s: float) -> str:
    """Return a training speed as a person writes it: "12.3k tokens/s"."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if tokens_per_s >= size:
            return f"{tokens_per_s / size:.3g}{unit} tokens/s"

    return f"{tokens_per_s:.3g} tokens/s"


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


def in_bytes(num_bytes: float) -> str:
    """Return a size on disk as a person says it: "6 MB" or "1.3 GB"."""
    if num_bytes < 1e9:
        return f"{num_bytes / 1e6:.0f} MB"
    return f"{num_bytes / 1e9:.1f} GB"
