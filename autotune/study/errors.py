"""Everything that is wrong with a study file, each error with its line and in words."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from autotune.core.errors import UserError
from autotune.core.text import shortened, shown
from autotune.search.dimension import Dimension
from autotune.study.key_lines import MAX_DEPTH, Location, deepest_line, key_lines, lines_of

_Built = TypeVar("_Built")

_TABLE_EXPECTED = ("model_type", "model_attributes_type", "dict_type", "mapping_type", "dataclass_type")
_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")


# Characters of a line of errors: what a key, a value or an exception adds to it can be of any length.
_LONGEST_PLACE = 120
_LONGEST_MESSAGE = 500
# Errors that are told; more than that nobody reads, and whoever made them made them by a program.
_MOST_ROUNDS = 100


class StudyFileError(UserError):
    """Everything that is wrong with a study file, a line each."""


_TOO_LARGE = "the largest whole number that TOML has is 9_223_372_036_854_775_807"


class StudyFileErrors:
    """Collects the errors of a study file and finds the place of each: a line of the file, or the `--set` that made it.

    Args:
        path: The study file.
        text: Its content, TOML that parses.
        changes: `--set` assignments, which parse as well.
    """

    def __init__(self, path: Path, text: str, changes: Sequence[str] = ()) -> None:
        lines = key_lines(text)
        self._places = {location: (line, f"{path}:{line}") for location, line in lines.items()}

        # Changes are sorted after the last line of the file.
        for order, change in enumerate(changes, start=text.count("\n") + 2):
            place = (order, f"--set {shortened(change, _LONGEST_PLACE)}:")
            *parents, key = key_lines(change)
            self._places[key] = place
            for parent in parents:
                self._places.setdefault(parent, place)

        self._default_place = (1, f"{path}:1")
        self._lines: dict[Location, tuple[int, str]] = {}

    def __bool__(self) -> bool:
        return bool(self._lines)

    def has(self, location: Location) -> bool:
        """Return whether there is an error at a place, or at a table around it."""
        return any(location[:depth] in self._lines for depth in range(1, len(location) + 1))

    def add(self, location: Location, message: str) -> None:
        """Record an error; only the first one at a place is kept."""
        order, place = self._placed(location)
        key = shortened(".".join(location), _LONGEST_PLACE) or "file"
        self._lines.setdefault(location, (order, f"{place} {key}: {shortened(message, _LONGEST_MESSAGE)}"))

    def place_of(self, location: Location) -> str:
        """Return the place of an entry, or of the innermost table around it: file and line, or the `--set`."""
        return self._placed(location)[1]

    def _placed(self, location: Location) -> tuple[int, str]:
        """Return the place of an entry, or of the innermost table around it that has one."""
        for depth in range(len(location), 0, -1):
            if location[:depth] in self._places:
                return self._places[location[:depth]]
        return self._default_place

    def add_pydantic(self, error: Any, root: type[BaseModel]) -> Location:
        """Record an error that pydantic reports of the study file, and return its location."""
        key_below_the_table = error.get("ctx", {}).get("key", ())
        location = tuple(map(str, error["loc"])) + tuple(key_below_the_table)

        self.add(location, explain_validation_error(error, location, _known_keys(root, location[:-1])))
        return location

    def add_base(self, error: Any, settings: Iterable[str]) -> Location:
        """Record an error that the trainer's config type reports of `base`, and return its location there."""
        location = tuple(map(str, error["loc"]))
        location_in_file = ("base", *location)

        if error["type"] in _UNKNOWN_KEY:
            self.add(location_in_file, no_setting(".".join(location), settings))
        else:
            self.add(location_in_file, explain_validation_error(error, location_in_file))
        return location

    def in_order(self) -> list[str]:
        """Return the lines to print, in the order of the file."""
        return [line for _, line in sorted(self._lines.values(), key=lambda entry: entry[0])]


def salvage(
    content: dict[str, Any],
    build: Callable[[dict[str, Any]], _Built],
    drop: Callable[[dict[str, Any], Sequence[Location]], dict[str, Any]],
    record: Callable[[Any], Location],
) -> _Built | None:
    """Build from a content, leaving out what is wrong, so that errors behind the first ones are reported too.

    Args:
        content: What a person wrote.
        build: Raises pydantic's ValidationError for a content that is wrong.
        drop: Returns a content less what is at some locations.
        record: Records an error and returns its location.

    Returns:
        What was built in the end, or None if nothing could be.
    """
    # Some faults hide behind others, and each round finds those behind the ones before.
    for _ in range(_MOST_ROUNDS):
        try:
            return build(content)
        except ValidationError as error:
            locations = [record(detail) for detail in error.errors()]

        rest = drop(content, locations)
        if rest == content:
            return None
        content = rest
    return None


def parse(text: str, source: str) -> dict[str, Any]:
    """Read TOML.

    Args:
        text: The TOML.
        source: Where it stands, for the message.

    Returns:
        The content, nested.

    Raises:
        StudyFileError: With the line.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StudyFileError(_explain_invalid_toml(text, source, str(error))) from None
    except RecursionError:
        where = _place(source, deepest_line(text))
        raise StudyFileError(f"{where}: tables and lists are nested more than {MAX_DEPTH} deep; write less") from None
    except ValueError:
        # Python reads no whole number of more than 4,300 digits.
        number = _line_of_most_digits(text)
        line = shortened(lines_of(text)[number - 1], 80)
        raise StudyFileError(f"{_place(source, number)}: {_TOO_LARGE}: {line}") from None


def _explain_invalid_toml(text: str, source: str, error: str) -> str:
    message = re.sub(r" \(at .*\)$", "", error)
    position = re.search(r"\(at line (\d+), column \d+\)", error)

    lines = lines_of(text)
    number = len(lines)
    if position:
        number = int(position.group(1))
    line = shortened(lines[number - 1], 200)
    place = _place(source, number)

    hints = {
        "Cannot overwrite a value": "; the key is given twice, keep one of them",
        "Invalid value": '; text needs quotes, such as name = "night"',
        "Cannot declare": "; the table is given twice, merge the two",
    }
    hint = next((words for start, words in hints.items() if message.startswith(start)), "")

    return f"{place}: not valid TOML: {message[:1].lower()}{message[1:]}: {line}{hint}"


def _place(source: str, number: int) -> str:
    # A `--set` assignment is a single line, which needs no number.
    return source if source.startswith("--set ") else f"{source}:{number}"


def _line_of_most_digits(text: str) -> int:
    lengths = [max(map(len, re.findall(r"[0-9_]+", line)), default=0) for line in lines_of(text)]
    return lengths.index(max(lengths)) + 1


def beyond_limits(content: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    """Yield the entries of a TOML content that no study file may have: numbers beyond TOML's own, and deep nesting."""
    waiting: list[tuple[Location, Any]] = [((), content)]
    while waiting:
        location, value = waiting.pop()
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            yield location, f"{_TOO_LARGE}; it is {shown(value)}"
        if not isinstance(value, dict | list):
            continue

        if len(location) >= MAX_DEPTH:
            yield location, f"tables and lists are nested more than {MAX_DEPTH} deep; write less"
            continue
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        waiting += [((*location, str(key)), entry) for key, entry in inner]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question after the nearest known name, in brackets, or "" if none is near."""
    # Comparing takes as long as both names, and nobody misspells a very long one.
    close = get_close_matches(name[:_LONGEST_PLACE], list(known), n=3)
    if not close:
        return ""

    # Swapped letters are the commonest slip, and difflib does not rank them first.
    close.sort(key=lambda candidate: sorted(candidate) != sorted(name))
    return f' (did you mean "{close[0]}"?)'


def no_setting(path: str, settings: Iterable[str]) -> str:
    """Return the message for a dotted path that the trainer's config lacks."""
    return f'the trainer has no setting "{path}"{did_you_mean(path, settings)}'


def explain_validation_error(error: Any, location: Location, known: Iterable[str] = ()) -> str:
    """Return an error that pydantic reports as a person would say it.

    Args:
        error: One of `ValidationError.errors()`.
        location: Path of keys to it.
        known: Keys that might have been meant.
    """
    value = error.get("input")
    kind = error["type"]

    if kind in _UNKNOWN_KEY:
        if location[0] == "space" and isinstance(value, Mapping):
            return f'unknown key; quote the whole path of a setting: "{".".join(location[1:])}" = {{...}}'
        return f"unknown key{did_you_mean(location[-1], known)}"

    if kind == "missing":
        return f"is missing; {_how_to_add(location)}"

    if kind in _TABLE_EXPECTED:
        example = f"[{'.'.join(location)}]"
        if location[0] == "space":
            example = "{low = 1, high = 4} or {choices = [1, 2]}"
        return f"must be a table such as {example}, but it is {shown(value)}"

    message = str(error["msg"]).removeprefix("Value error, ")
    # Messages of our own validators name the value themselves.
    if kind in ("value_error", "refused"):
        return message

    # pydantic speaks of the "input", but each line begins with the key's own name.
    if message.startswith("Input should "):
        message = "must " + message.removeprefix("Input should ").partition(", unable to ")[0]
    return f"{message[:1].lower()}{message[1:]}, but it is {shown(value)}"


def _how_to_add(location: Location) -> str:
    examples = {
        ("name",): 'add name = "my-study"',
        ("budget",): "add a [budget] table with tokens = 1_000_000",
        ("budget", "tokens"): "add tokens = 1_000_000 to [budget]",
        ("space",): 'add a [space] table, for example "optim.muon_lr" = {low = 0.003, high = 0.1, log = true}',
    }
    return examples.get(location, f"add {'.'.join(location[1:])} to [{location[0]}]")


def _known_keys(root: type[BaseModel], parents: Location) -> list[str]:
    """Return the keys that a table of the study file may have, for a suggestion."""
    if parents[:1] == ("space",):
        return list(Dimension.model_fields)

    model: Any = root
    for parent in parents:
        field = getattr(model, "model_fields", {}).get(parent)
        model = None if field is None else field.annotation

    return list(getattr(model, "model_fields", {}))
