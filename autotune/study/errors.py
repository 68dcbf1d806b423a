"""Everything that is wrong with a study file, each fault with its line and in words."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from autotune.core.errors import UserError
from autotune.search.dimension import Dimension

Location = tuple[str, ...]
Built = TypeVar("Built")

_TABLE_WANTED = ("model_type", "model_attributes_type", "dict_type", "mapping_type", "dataclass_type")
_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")


class StudyFileError(UserError):
    """Everything that is wrong with a study file, a line each."""


class Faults:
    """Collects faults and finds the place of each: a line of the file, or the `--set` that made it.

    Args:
        path: The study file.
        text: Its content, TOML that parses.
        changes: `--set` assignments, which parse as well.
    """

    def __init__(self, path: Path, text: str, changes: Sequence[str] = ()) -> None:
        lines = key_lines(text)
        self._places = {location: (line, f"{path}:{line}") for location, line in lines.items()}
        for number, change in enumerate(changes, start=text.count("\n") + 2):
            *parents, key = key_lines(change)
            self._places[key] = (number, f"--set {change}:")
            for parent in parents:
                self._places.setdefault(parent, self._places[key])
        self._nowhere = (1, f"{path}:1")
        self._found: dict[Location, tuple[int, str]] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def has(self, location: Location) -> bool:
        """Whether there is a fault at a place, or at a table around it."""
        return any(location[:depth] in self._found for depth in range(1, len(location) + 1))

    def add(self, location: Location, message: str) -> None:
        """Notes a fault; the first at a place is the one that counts."""
        prefixes = [location[:depth] for depth in range(len(location), 0, -1)]
        order, place = next((self._places[prefix] for prefix in prefixes if prefix in self._places), self._nowhere)
        self._found.setdefault(location, (order, f"{place} {'.'.join(location) or 'file'}: {message}"))

    def add_pydantic(self, fault: Any, root: type[BaseModel]) -> Location:
        """Notes a fault that pydantic found in the study file and returns its location."""
        location = tuple(map(str, fault["loc"])) + tuple(fault.get("ctx", {}).get("key", ()))
        self.add(location, in_words(fault, location, _known_keys(root, location[:-1])))
        return location

    def add_base(self, fault: Any, settings: Iterable[str]) -> Location:
        """Notes a fault that the trainer's config type found in `base` and returns its location there."""
        location = tuple(map(str, fault["loc"]))
        if fault["type"] in _UNKNOWN_KEY:
            self.add(("base", *location), no_setting(".".join(location), settings))
        else:
            self.add(("base", *location), in_words(fault, ("base", *location), ()))
        return location

    def in_order(self) -> list[str]:
        """Returns the lines to print, in the order of the file."""
        return [line for _, line in sorted(self._found.values(), key=lambda item: item[0])]


def salvage(
    content: dict[str, Any],
    build: Callable[[dict[str, Any]], Built],
    drop: Callable[[dict[str, Any], Location], dict[str, Any]],
    note: Callable[[Any], Location],
) -> Built | None:
    """Builds from a content, leaving out what is faulty, so that faults behind the first ones are found too.

    Args:
        content: What a person wrote.
        build: Raises pydantic's ValidationError for a faulty content.
        drop: Returns a content less what is at a location.
        note: Takes a fault down and returns its location.

    Returns:
        What was built in the end, or None if nothing could be.
    """
    while True:
        try:
            return build(content)
        except ValidationError as error:
            rest = content
            for fault in error.errors():
                rest = drop(rest, note(fault))
        if rest == content:
            return None
        content = rest


def parse(text: str, source: str) -> dict[str, Any]:
    """Reads TOML.

    Args:
        text: The TOML.
        source: Where it stands, for the message.

    Raises:
        StudyFileError: With the line.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = re.sub(r" \(at .*\)$", "", str(error))
        place = re.search(r"\(at line (\d+), column \d+\)", str(error))
        number = int(place.group(1)) if place else len(lines_of(text))
        line = lines_of(text)[number - 1].strip()
        where = f"{source}:{number}" if "\n" in text else source
        hint = {
            "Cannot overwrite a value": "the key is given twice; keep one of them",
            "Invalid value": 'a text needs quotes, such as name = "night"',
            "Cannot declare": "the table is given twice; join them",
        }
        advice = next((f"; {words}" for start, words in hint.items() if message.startswith(start)), "")
        raise StudyFileError(f"{where}: not valid TOML: {message[:1].lower()}{message[1:]}: {line}{advice}") from None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns a question after the nearest known name, or "" if none is near."""
    close = get_close_matches(name, list(known), n=3)
    # Swapped letters are the commonest slip, and difflib does not rank them first.
    close.sort(key=lambda candidate: sorted(candidate) != sorted(name))
    return f', did you mean "{close[0]}"?' if close else ""


def no_setting(path: str, settings: Iterable[str]) -> str:
    """Returns the message for a dotted path that the trainer's config lacks."""
    return f'the trainer has no setting "{path}"{did_you_mean(path, settings)}'


def in_words(fault: Any, location: Location, known: Iterable[str] = ()) -> str:
    """Returns a fault that pydantic found as a person would say it.

    Args:
        fault: One of `ValidationError.errors()`.
        location: Path of keys to it.
        known: Keys that might have been meant.
    """
    value, kind = fault.get("input"), fault["type"]
    if kind in _UNKNOWN_KEY:
        if location[0] == "space" and isinstance(value, Mapping):
            return f'unknown key; quote the whole path of a setting: "{".".join(location[1:])}" = {{...}}'
        return f"unknown key{did_you_mean(location[-1], known)}"
    if kind == "missing":
        return f"is missing; {_needed(location)}"
    if kind in _TABLE_WANTED:
        example = "{low = 1, high = 4} or {choices = [1, 2]}" if location[0] == "space" else f"[{'.'.join(location)}]"
        return f"must be a table such as {example}, but it is {value!r}"
    message = str(fault["msg"]).removeprefix("Value error, ")
    if kind in ("value_error", "refused"):
        return message
    return f"{message[:1].lower()}{message[1:]}, but it is {value!r}"


def _needed(location: Location) -> str:
    examples = {
        ("name",): 'add name = "my-study"',
        ("budget",): "add a [budget] table with tokens = 1_000_000",
        ("budget", "tokens"): "add tokens = 1_000_000 to [budget]",
        ("space",): 'add a [space] table, for example "optim.muon_lr" = {low = 0.003, high = 0.1, log = true}',
    }
    return examples.get(location, f"add {'.'.join(location[1:])} to [{location[0]}]")


def _known_keys(root: type[BaseModel], parents: Location) -> list[str]:
    """Returns the keys that a table of the study file may have, for a suggestion."""
    if parents[:1] == ("space",):
        return list(Dimension.model_fields)
    model: Any = root
    for parent in parents:
        field = getattr(model, "model_fields", {}).get(parent)
        model = None if field is None else field.annotation
    return list(getattr(model, "model_fields", {}))


def key_lines(text: str) -> dict[Location, int]:
    """Finds the line of every key and table header of a TOML text.

    The standard reader keeps no positions, so each line's key is read by itself with the same reader;
    keys inside an inline table share the line of the table.

    Args:
        text: TOML that parses.

    Returns:
        Line numbers from 1 by the path of keys; a path comes after those of the tables around it. Those of an array
        of tables are numbered: [[enqueue]] is ("enqueue", "0"), then ("enqueue", "1").
    """
    positions: dict[Location, int] = {}
    entries: Counter[Location] = Counter()
    table: Location = ()
    lines = lines_of(text)
    for number, line in enumerate(lines, start=1):
        location = _location_on(line.strip(), table)
        # A line in the middle of a list or a long text may look like a key.
        if not location or not _is_whole("\n".join(lines[: number - 1])):
            continue
        if line.strip().startswith("[["):
            location = (*location, str(entries[location]))
            entries[location[:-1]] += 1
        if line.strip().startswith("["):
            table = location
        for depth in range(1, len(location)):
            positions.setdefault(location[:depth], number)
        positions[location] = number
    return positions


def lines_of(text: str) -> list[str]:
    """Returns the lines of a TOML text, which only a newline ends; splitlines also breaks at U+0085 and U+2028."""
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")


def _is_whole(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _location_on(line: str, table: Location) -> Location:
    """Returns the path of keys that a line names, or () for none."""
    try:
        if line.startswith("["):
            return _only_path(tomllib.loads(line))
        return table + _key_of(line) if "=" in line and not line.startswith("#") else ()
    except (tomllib.TOMLDecodeError, ValueError):
        return ()


def _key_of(line: str) -> Location:
    for match in re.finditer("=", line):
        try:
            return _only_path(tomllib.loads(f"{line[: match.start()]}= 0"))
        except tomllib.TOMLDecodeError:
            continue
    raise ValueError("no key on this line")


def _only_path(nested: Any) -> Location:
    path: list[str] = []
    while isinstance(nested, dict | list) and nested:
        if isinstance(nested, list):
            nested = nested[0]
            continue
        key = next(iter(nested))
        path.append(key)
        nested = nested[key]
    return tuple(path)
