"""The line of every key of a TOML text, for messages that name it."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from typing import Any

Location = tuple[str, ...]
"""The path of keys to an entry of a TOML text."""

MAX_DEPTH = 20
"""The deepest nesting of tables and lists that a study file may have; no trainer's config comes near."""
# What decides where a statement begins: comments and texts, in which anything may stand, and brackets.
_TOKEN = re.compile(
    r"""
    \#[^\n]*
    | \"{3} (?:[^"\\]|\\.|"(?!""))* \"{3,5}
    | '{3} (?:[^']|'(?!''))* '{3,5}
    | "(?:[^"\\\n]|\\.)*"
    | '[^'\n]*'
    | [\[\]{}=\n]
    """,
    re.VERBOSE | re.DOTALL,
)


def key_lines(text: str) -> dict[Location, int]:
    """Return the line of every key and table header of a TOML text, in time proportional to its length.

    The standard reader keeps no positions, so the beginning of each statement is read by itself with the same reader;
    keys inside an inline table share the line of the table.

    Args:
        text: TOML that parses.

    Returns:
        Line numbers from 1 by the path of keys, cut at `MAX_DEPTH`; a path comes after those of the tables around it.
        Those of an array of tables are numbered: [[enqueue]] is ("enqueue", "0"), then ("enqueue", "1").
    """
    positions: dict[Location, int] = {}
    array_lengths: Counter[Location] = Counter()
    table: Location = ()

    for number, head in _heads(text):
        is_header = head.startswith("[")
        path = _path_of(head if is_header else f"{head} = 0")
        if not path:
            continue

        location = path if is_header else table + path
        if head.startswith("[["):
            array = location
            location = (*array, str(array_lengths[array]))
            array_lengths[array] += 1
        if is_header:
            table = location

        location = location[:MAX_DEPTH]
        for depth in range(1, len(location)):
            positions.setdefault(location[:depth], number)
        positions[location] = number

    return positions


def lines_of(text: str) -> list[str]:
    """Return the lines of a TOML text, which only a newline ends; splitlines also breaks at U+0085 and U+2028."""
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")


def deepest_line(text: str) -> int:
    """Return the line on which a TOML text first has more than `MAX_DEPTH` open brackets; 1 if it has none."""
    depth = 0
    number = 1
    for token in _TOKEN.finditer(text):
        mark = token.group()
        depth += (mark in "[{") - (mark in "]}")
        if depth > MAX_DEPTH:
            return number
        number += mark.count("\n")
    return 1


def _heads(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line of each statement and its beginning: a table's header, or what stands before the equals sign."""
    text = text.replace("\r\n", "\n") + "\n"
    number = 1
    depth = 0
    start = 0
    head = ""

    for token in _TOKEN.finditer(text):
        mark = token.group()
        if mark == "=" and not depth and not head:
            head = text[start : token.start()].strip()
            yield number, head

        depth += (mark in "[{") - (mark in "]}")
        if mark == "\n" and not depth:
            line = text[start : token.start()].strip()
            if not head and line.startswith("["):
                yield number, line
            start = token.end()
            head = ""
        number += mark.count("\n")


def _path_of(statement: str) -> Location:
    """Return the keys down to the value that a statement by itself assigns, or () if it is none."""
    try:
        nested: Any = tomllib.loads(statement)
    except tomllib.TOMLDecodeError:
        return ()

    path: list[str] = []
    while isinstance(nested, dict | list) and nested:
        if isinstance(nested, list):
            nested = nested[0]
            continue
        key = next(iter(nested))
        path.append(key)
        nested = nested[key]

    return tuple(path)
