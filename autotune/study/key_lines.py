"""The line of every key of a TOML text, for messages that name it."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from typing import Any

Location = tuple[str, ...]
"""The path of keys to an entry of a TOML text."""


def key_lines(text: str) -> dict[Location, int]:
    """Return the line of every key and table header of a TOML text.

    The standard reader keeps no positions, so each line's key is read by itself with the same reader;
    keys inside an inline table share the line of the table.

    Args:
        text: TOML that parses.

    Returns:
        Line numbers from 1 by the path of keys; a path comes after those of the tables around it. Those of an array
        of tables are numbered: [[enqueue]] is ("enqueue", "0"), then ("enqueue", "1").
    """
    positions: dict[Location, int] = {}
    array_lengths: Counter[Location] = Counter()
    table: Location = ()
    lines = lines_of(text)

    for number, line in enumerate(lines, start=1):
        line = line.strip()
        location = _location_on(line, table)

        # A line in the middle of a list or a long text may look like a key.
        if not location or not _is_whole("\n".join(lines[: number - 1])):
            continue

        if line.startswith("[["):
            array = location
            location = (*array, str(array_lengths[array]))
            array_lengths[array] += 1
        if line.startswith("["):
            table = location

        for depth in range(1, len(location)):
            positions.setdefault(location[:depth], number)
        positions[location] = number

    return positions


def lines_of(text: str) -> list[str]:
    """Return the lines of a TOML text, which only a newline ends; splitlines also breaks at U+0085 and U+2028."""
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")


def _is_whole(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _location_on(line: str, table: Location) -> Location:
    """Return the path of keys that a line names, or () for none."""
    if line.startswith("["):
        try:
            return _only_path(tomllib.loads(line))
        except tomllib.TOMLDecodeError:
            return ()

    if line.startswith("#"):
        return ()
    key = _key_on(line)
    return table + key if key else ()


def _key_on(line: str) -> Location:
    """Return the key that a line assigns to, or () for none."""
    # A quoted key may hold an equals sign itself, so the first one need not be the assignment.
    for match in re.finditer("=", line):
        try:
            return _only_path(tomllib.loads(f"{line[: match.start()]}= 0"))
        except tomllib.TOMLDecodeError:
            continue
    return ()


def _only_path(nested: Any) -> Location:
    """Return the keys down to the innermost value of a mapping that holds a single one."""
    path: list[str] = []
    while isinstance(nested, dict | list) and nested:
        if isinstance(nested, list):
            nested = nested[0]
            continue
        key = next(iter(nested))
        path.append(key)
        nested = nested[key]

    return tuple(path)
