"""What Python code says of a study, as a study file's text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autotune.core.errors import UserError
from autotune.core.text import shown

Changes = Mapping[str, Any] | Sequence[str]
"""Changes of a study file: values by dotted path, or assignments in TOML, as `--set` takes them."""


def study_text(tables: Mapping[str, Any], space: Mapping[str, Any]) -> str:
    """Return the study file that says what a call of `autotune.tune` says.

    Args:
        tables: Everything but the space; entries that are None are left out.
        space: What is searched, by the setting's dotted path: see `dimension`.

    Raises:
        UserError: If a study file cannot hold something of it.
    """
    import tomli_w

    if not isinstance(space, Mapping):
        raise UserError(f'space is {shown(space)}; write what is searched, such as {{"lr": (0.001, 0.1)}}')

    content = {key: _plain(value, key) for key, value in tables.items() if value is not None}
    content["space"] = {str(path): dimension(what, f"space[{path!r}]") for path, what in space.items()}
    return "# Written by autotune.tune.\n" + tomli_w.dumps(content)


def dimension(what: object, where: str) -> dict[str, Any]:
    """Return one dimension of a space as a study file has it.

    Args:
        what: A pair (low, high), a list of choices, an Optuna distribution, or a mapping with a study file's keys.
        where: What it is called in messages.
    """
    if isinstance(what, Mapping):
        return {str(key): _plain(value, f"{where}[{key!r}]") for key, value in what.items()}
    if isinstance(what, tuple) and len(what) == 2:
        low, high = what
        return {"low": _plain(low, where), "high": _plain(high, where)}
    if isinstance(what, list):
        return {"choices": _plain(what, where)}

    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(what, CategoricalDistribution):
        return {"choices": _plain(list(what.choices), where)}
    if isinstance(what, FloatDistribution | IntDistribution):
        table: dict[str, Any] = {"low": what.low, "high": what.high}
        if what.log:
            table["log"] = True
        elif what.step not in (None, 1):
            table["step"] = what.step
        return table

    raise UserError(
        f"{where} is {shown(what)}; write a pair (low, high), a list of choices, an Optuna distribution, or a mapping "
        'such as {"low": 0.001, "high": 0.1, "log": True}'
    )


def changes_text(changes: Changes | None) -> list[str]:
    """Return changes of a study file as `--set` assignments.

    Args:
        changes: None for none.
    """
    import tomli_w

    if isinstance(changes, str):
        return [changes]
    if not isinstance(changes, Mapping):
        return list(changes or ())

    lines = []
    for path, value in changes.items():
        plain = _plain(value, path)
        if isinstance(plain, dict):
            lines.append(f"[{path}]\n{tomli_w.dumps(plain)}")
        else:
            value_text = tomli_w.dumps({"value": plain}).removeprefix("value = ").strip()
            lines.append(f"{path} = {value_text}")
    return lines


def whole(value: object, where: str) -> int:
    """Return a whole number as Python's own, whether it is that of NumPy or written as 5e6.

    Args:
        value: The number.
        where: What it is called in messages.
    """
    plain = _plain(value, where)
    if isinstance(plain, float) and plain.is_integer():
        return int(plain)
    if isinstance(plain, bool) or not isinstance(plain, int):
        raise UserError(f"{where} is {shown(value)}; write a whole number")
    return plain


def settings(values: object, where: str) -> dict[str, Any]:
    """Return settings by dotted path, their values as Python's own.

    Args:
        values: A mapping.
        where: What it is called in messages.
    """
    if not isinstance(values, Mapping):
        raise UserError(f'{where} is {shown(values)}; write settings by dotted path, such as {{"optim.muon_lr": ...}}')
    return {str(path): _plain(value, f"{where}[{path!r}]") for path, value in values.items()}


def ranges_by_path(ranges: object) -> dict[str, Sequence[Any]]:
    """Return what is to be searched from now on: two ends, or choices, by dotted path.

    Args:
        ranges: A mapping.
    """
    by_path = settings(ranges, "ranges")
    for path, values in by_path.items():
        if not isinstance(values, list):
            raise UserError(f"ranges[{path!r}] is {shown(values)}; write (low, high), or a list of choices")
    return by_path


def _plain(value: Any, where: str) -> Any:
    """Return a value as TOML can hold it: arrays as lists, their numbers as Python's."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # of NumPy, and of what is like it
        return _plain(value.tolist(), where)
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, where) for item in value]
    if value is None or not isinstance(value, bool | int | float | str):
        raise UserError(
            f"{where} is {shown(value)}, which a study file cannot hold: use numbers, text, true or false, lists and "
            "mappings of them, and leave out what has no value"
        )
    return value
