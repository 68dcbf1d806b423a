"""Figures of the sources' structure: folders, functions, blank lines, names that nobody else uses.

Run: `make bench BENCH=structure`, or with the root of another checkout as argument to compare the two.
"""

from __future__ import annotations

import ast
import re
import statistics
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

FOLDERS = ("autotune", "model", "reports")
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True)
class Module:
    """One source file."""

    path: Path
    text: str
    tree: ast.Module


def read(root: Path, folder: str) -> list[Module]:
    """Return the modules of a folder and of those below it."""
    paths = sorted((root / folder).rglob("*.py"))
    texts = [path.read_text(encoding="utf-8") for path in paths]
    return [Module(path, text, ast.parse(text)) for path, text in zip(paths, texts, strict=True)]


def body_lines(function: ast.FunctionDef, lines: list[str]) -> list[str]:
    """Return the lines of a function's body without its docstring."""
    body = function.body
    if ast.get_docstring(function) is not None:
        body = body[1:]
    if not body:
        return []
    return lines[body[0].lineno - 1 : function.end_lineno]


def describe(modules: list[Module]) -> str:
    """Return the figures of one source folder's functions in a line."""
    bodies = []
    written_lines = 0
    kinds: Counter[str] = Counter()
    for module in modules:
        lines = module.text.splitlines()
        written_lines += sum(bool(line.strip()) for line in lines)
        for node in ast.walk(module.tree):
            kinds["conditional"] += isinstance(node, ast.IfExp)
            kinds["comprehension"] += isinstance(node, COMPREHENSIONS)
            if isinstance(node, ast.FunctionDef):
                bodies.append(body_lines(node, lines))

    lengths = sorted(len(body) for body in bodies)
    blank = sum(not line.strip() for body in bodies for line in body)
    per_hundred = {kind: 100 * number / written_lines for kind, number in kinds.items()}

    return (
        f"{100 * blank / sum(lengths):.1f} blank lines in 100 lines of a function body, "
        f"{per_hundred['conditional']:.1f} conditional expressions and "
        f"{per_hundred['comprehension']:.1f} comprehensions in 100 lines; "
        f"functions: median {statistics.median(lengths):.0f} lines, "
        f"90th percentile {lengths[int(0.9 * len(lengths))]}, longest {lengths[-1]}"
    )


def public_names(module: Module) -> list[str]:
    """Return the public functions, classes and constants of a module."""
    names = []
    for node in module.tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.append(node.target.id)
    return [name for name in names if not name.startswith("_")]


def used_nowhere_else(modules: list[Module]) -> tuple[int, int]:
    """Return how many public names there are, and how many no other source module mentions."""
    words = {module.path: set(re.findall(r"\w+", module.text)) for module in modules}
    number, alone = 0, 0
    for module in modules:
        elsewhere = set().union(*(mentioned for path, mentioned in words.items() if path != module.path))
        names = public_names(module)
        number += len(names)
        alone += sum(name not in elsewhere for name in names)
    return number, alone


def main() -> None:
    """Print the figures."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2]
    modules = {folder: read(root, folder) for folder in FOLDERS}
    everything = [module for each in modules.values() for module in each]

    sizes = Counter(module.path.parent for module in everything if module.path.name != "__init__.py")
    fullest, size = sizes.most_common(1)[0]
    number, alone = used_nowhere_else(everything)

    print(f"fullest folder: {fullest.relative_to(root)} with {size} modules")
    print(f"public names: {number}, of which {alone} are mentioned in no other module of the sources")
    for folder, each in modules.items():
        print(f"{folder}: {describe(each)}")


if __name__ == "__main__":
    main()
