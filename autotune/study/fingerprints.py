"""A function in words that change when the function does, or what it uses: its source, its values, those of both.

Bytecode and pickles would change with Python's version, with the cell's number and with each process.
"""

from __future__ import annotations

import ast
import dis
import hashlib
import importlib.util
import inspect
import os
import shlex
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

from autotune.core.text import reason

_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_GLOBAL_NAMES = ("LOAD_GLOBAL", "LOAD_NAME")


def described(value: Any) -> str:
    """Return a value in words that are the same in each process, as long as it is.

    Functions and classes of a notebook or a script are described by their source, with what they use; those of a module
    by their name.

    Args:
        value: Anything.
    """
    return _Description().of(value)


class _Description:
    """Describes each function and class once, however often it is used."""

    def __init__(self) -> None:
        self._seen: dict[int, str] = {}

    def of(self, value: Any) -> str:
        if isinstance(value, _PLAIN):
            return repr(value)
        if isinstance(value, list | tuple | set | frozenset | Mapping):
            return self._collection(value)
        if isinstance(value, ModuleType):
            return f"module {value.__name__}"
        if isinstance(value, FunctionType | type | BuiltinFunctionType):
            return self._named(value)
        return _digest(value)

    def _collection(self, value: Any) -> str:
        kind = type(value).__name__
        if isinstance(value, Mapping):
            pairs = [f"{self.of(key)}: {self.of(item)}" for key, item in value.items()]
            return f"{kind}({', '.join(pairs)})"

        items = [self.of(item) for item in value]
        if isinstance(value, set | frozenset):
            items.sort()
        return f"{kind}({', '.join(items)})"

    def _named(self, value: Any) -> str:
        name = f"{value.__module__}.{value.__qualname__}"
        # A module's own code is not a part of the study, as it is none where the module's trainer is named.
        if value.__module__ != "__main__" and "<" not in value.__qualname__:
            return name
        if id(value) in self._seen:
            return self._seen[id(value)]

        self._seen[id(value)] = name
        if isinstance(value, type):
            return self._class(value)
        return self._function(value) if isinstance(value, FunctionType) else name

    def _function(self, function: FunctionType) -> str:
        code = function.__code__
        used = {name: function.__globals__[name] for name in _global_names(code) if name in function.__globals__}
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            used[name] = _content(cell)

        # What a config may be, and how it is checked, is a part of the training.
        for name, annotation in _annotations(function).items():
            if isinstance(annotation, type):
                used[f"{name}: "] = annotation

        defaults = (function.__defaults__, function.__kwdefaults__)
        parts = [_source(function) or self._code(code), self.of(defaults)]
        parts += [f"{name} = {self.of(used[name])}" for name in sorted(used)]
        return "\n".join(parts)

    def _class(self, value: type) -> str:
        parts = [_source(value) or "", *(self.of(base) for base in value.__bases__)]
        annotations = vars(value).get("__annotations__", {})
        parts += [f"{name}: {annotation}" for name, annotation in annotations.items()]

        for name, member in vars(value).items():
            member = getattr(member, "__func__", member)
            is_own_method = isinstance(member, FunctionType) and _source(member)
            if is_own_method or (isinstance(member, _PLAIN) and not name.startswith("__")):
                parts.append(f"{name} = {self.of(member)}")
        return "\n".join(parts)

    def _code(self, code: CodeType) -> str:
        constants = [self._code(item) if isinstance(item, CodeType) else self.of(item) for item in code.co_consts]
        names = (code.co_names, code.co_varnames, code.co_freevars)
        return f"{code.co_code.hex()} {constants} {names}"


def _source(value: Callable[..., Any]) -> str | None:
    """Return the source of a function or class without its comments and its layout; None if it is not known."""
    # The lines of a lambda are those of the whole call that it is written in.
    if value.__name__ == "<lambda>":
        return None
    try:
        text = textwrap.dedent(inspect.getsource(value))
        return _tree(ast.parse(text))
    except (OSError, TypeError, SyntaxError, ValueError):
        return None


def _tree(node: Any) -> str:
    """Return a syntax tree in words, without what is empty: versions of Python differ in what they can leave empty."""
    if isinstance(node, list):
        return f"[{', '.join(map(_tree, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)

    fields = [f"{name}={_tree(value)}" for name, value in ast.iter_fields(node) if value is not None and value != []]
    return f"{type(node).__name__}({', '.join(fields)})"


def _global_names(code: CodeType) -> set[str]:
    """Return the names outside of it that a function's code uses, that of functions within it included."""
    names = {str(step.argval) for step in dis.get_instructions(code) if step.opname in _GLOBAL_NAMES}
    for item in code.co_consts:
        if isinstance(item, CodeType):
            names |= _global_names(item)
    return names


def _annotations(function: FunctionType) -> dict[str, Any]:
    try:
        return inspect.get_annotations(function, eval_str=True)
    except Exception:  # noqa: BLE001 - annotations may be any code; an unusable one is told where it is used
        return {}


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that was never given a value
        return None


def _digest(value: Any) -> str:
    """Return an object by what a copy of it would hold, which for arrays, tables and tensors is their numbers."""
    import cloudpickle

    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    try:
        content = hashlib.sha256(cloudpickle.dumps(value)).hexdigest()
    except Exception as error:  # noqa: BLE001 - whatever a class of someone else raises
        content = reason(error).partition(":")[0]
    return f"{kind} {content}"


def trainer_code(trainer: str, command: str = "") -> str:
    """Return a hash of the files that a study trains with, 16 hexadecimal digits; "" if none is found.

    These are the module of a trainer, with all modules of its package, and what a program's command line names.

    Args:
        trainer: "package.module:function".
        command: The command line of a program that is swept in its place, or "".
    """
    if command:
        files = [Path(word) for word in shlex.split(command) if os.path.isfile(word)]
    else:
        files = _files_of(trainer.partition(":")[0].partition(".")[0])

    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()[:16] if files else ""


def _files_of(package: str) -> list[Path]:
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return []
    if found is None:
        return []
    if found.submodule_search_locations:
        return sorted(file for folder in found.submodule_search_locations for file in Path(folder).rglob("*.py"))
    return [Path(found.origin)] if found.origin and os.path.isfile(found.origin) else []
