"""A trainer that no process can import by name, since a notebook or a script defines it: it is stored with its study.

`store` makes a small module of it in the study's folder, which every process imports like any other trainer's. Its name
holds a hash of the function and of what it uses, so that a changed function is a changed study.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import io
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from autotune.core.errors import UserError
from autotune.core.files import write_bytes, write_text
from autotune.core.text import reason
from autotune.study.fingerprints import described

_PREFIX = "stored_function_"
_HASH_DIGITS = 12
BESIDE = (
    "counts",
    "prepare_training",
    "length_rules",
    "setting_roles",
    "untrained_settings",
    "generate_text",
    "evaluate_weights",
)
"""What a trainer's module may have beside its function: see `trainer_interface`. A notebook is such a module too."""
_DATACLASS_MARKS = ("MISSING", "KW_ONLY", "_FIELD", "_FIELD_CLASSVAR", "_FIELD_INITVAR")
_MODULE = '''"""The function {name} that `autotune.tune` was given, stored with its study: code that is run."""

from autotune.study.stored_function import stored_objects

globals().update(stored_objects(__file__, python="{python}"))
'''


@dataclass(frozen=True)
class StoredFunction:
    """A function that is stored as a module, and what its own module has beside it.

    Args:
        module_name: The module's name, which holds the hash.
        name: The function's name in it.
        objects: What the module has, by name.
    """

    module_name: str
    name: str
    objects: Mapping[str, Any]

    @property
    def trainer(self) -> str:
        """The trainer's name in a study file."""
        return f"{self.module_name}:{self.name}"

    def make_known(self) -> None:
        """Let this process import the module before it is written: what is wrong with the study is told first."""
        module = ModuleType(self.module_name)
        vars(module).update(self.objects)
        sys.modules[self.module_name] = module

    def write(self, folder: Path) -> None:
        """Write the module, for this version of Python, and let processes that are started from here import it.

        Args:
            folder: The study's run directory; made if missing.

        Raises:
            UserError: If something that it uses cannot be stored.
        """
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / f"{self.module_name}.pkl", _pickled(self.objects, self.name))
        text = _MODULE.format(name=self.name, python=_python())
        write_text(folder / f"{self.module_name}.py", text)
        make_importable(folder, self.trainer)


def is_importable(function: Callable[..., Any]) -> bool:
    """Return whether another process finds a function under its name.

    Args:
        function: A function; one of a notebook, of a script that is run, or within another function is not found.
    """
    module_name = getattr(function, "__module__", None) or "__main__"
    name = getattr(function, "__qualname__", "")
    if module_name == "__main__" or not name.isidentifier():
        return False
    return getattr(sys.modules.get(module_name), name, None) is function and _has_source(module_name)


def _has_source(module_name: str) -> bool:
    with contextlib.suppress(ImportError, ValueError, AttributeError):
        return importlib.util.find_spec(module_name) is not None
    return False


def store(function: Callable[..., Any], metric: Mapping[str, Any] | None = None) -> StoredFunction:
    """Return a function as it is stored, and what its own module has beside it.

    Args:
        function: A trainer: a function of a config, tokens and `report`.
        metric: What it reports, as a module would declare it; None for a loss. (A notebook may well have a variable of
            that name which means something else.)
    """
    name = getattr(function, "__name__", "train")
    if not name.isidentifier():
        name = "train"

    beside = getattr(function, "__globals__", {})
    objects = {key: beside[key] for key in BESIDE if key in beside}
    described_whole = described(function)
    if metric is not None:
        objects["metric"] = dict(metric)
        described_whole += json.dumps(objects["metric"], sort_keys=True, default=str)

    digest = hashlib.sha256(described_whole.encode("utf-8", "surrogatepass")).hexdigest()
    return StoredFunction(_PREFIX + digest[:_HASH_DIGITS], name, {**objects, name: function})


def is_stored(trainer: str) -> bool:
    """Return whether a trainer's name is that of a stored function."""
    return trainer.startswith(_PREFIX)


def make_importable(folder: Path, trainer: str) -> None:
    """Let this process, and those that it starts, import the function that is stored in a folder.

    Args:
        folder: A study's run directory, or what else a file is in that names the trainer.
        trainer: The trainer's name; any other than that of a stored function changes nothing.
    """
    path = str(folder.absolute())
    is_there = is_stored(trainer) and (folder / f"{trainer.partition(':')[0]}.py").is_file()
    if is_there and path not in sys.path:
        sys.path.append(path)
        importlib.invalidate_caches()


def carry_along(folder: Path, trainer: str) -> None:
    """Copy a stored function into the folder of another study that trains with it, which must do without the first.

    Args:
        folder: That study's run directory.
        trainer: The trainer's name; any other than that of a stored function changes nothing.
    """
    module_name = trainer.partition(":")[0]
    if not is_stored(trainer) or (folder / f"{module_name}.py").exists():
        return

    found = importlib.util.find_spec(module_name)
    if found is not None and found.origin is not None:
        for ending in (".pkl", ".py"):
            write_bytes(folder / (module_name + ending), Path(found.origin).with_suffix(ending).read_bytes())


def stored_objects(file: str, python: str) -> dict[str, Any]:
    """Return what a stored module has, by name.

    Args:
        file: The module's file; the objects lie beside it.
        python: The version of Python that has stored them, "3.12".

    Raises:
        ImportError: If this is another version: it cannot run the code that the other has compiled.
    """
    import cloudpickle

    if python != _python():
        raise ImportError(
            f"it was stored by Python {python}, whose code Python {_python()} cannot run: call autotune.tune again "
            f"with the same function and settings, or use Python {python}"
        )
    content: dict[str, Any] = cloudpickle.loads(Path(file).with_suffix(".pkl").read_bytes())
    for name, own in content.pop("annotations").items():
        content[name].__annotations__ = own
    return content


def _python() -> str:
    return ".".join(map(str, sys.version_info[:2]))


def _pickled(objects: Mapping[str, Any], name: str) -> bytes:
    """Return objects as bytes that a process without their module can read."""
    import cloudpickle

    annotations = {}
    for key, value in objects.items():
        # Where annotations are texts, what they name is not among the things that the code uses.
        if inspect.isfunction(value):
            with contextlib.suppress(Exception):
                annotations[key] = inspect.get_annotations(value, eval_str=True)

    module = sys.modules.get(getattr(objects[name], "__module__", None) or "__main__")
    is_unknown_elsewhere = module is not None and module.__name__ != "__main__" and not _has_source(module.__name__)
    try:
        if is_unknown_elsewhere:
            cloudpickle.register_pickle_by_value(module)
        pickled = _dumps({**objects, "annotations": annotations})
    except Exception as error:
        raise UserError(
            f"{name} cannot be stored for the processes that train, since something that it uses cannot be copied "
            f"({reason(error)}): make that inside {name}, or put {name} into a module of its own and import it"
        ) from error
    finally:
        if is_unknown_elsewhere:
            cloudpickle.unregister_pickle_by_value(module)
    return pickled


def _dumps(content: Mapping[str, Any]) -> bytes:
    """Return a content as cloudpickle writes it, less its fault with data classes.

    It copies the marks in their fields, which the standard library and pydantic tell apart by identity.
    """
    import cloudpickle

    marks = {id(mark): name for name, mark in vars(dataclasses).items() if name in _DATACLASS_MARKS}

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, value: Any) -> Any:
            if id(value) in marks:
                return marks[id(value)]
            return super().reducer_override(value)

    file = io.BytesIO()
    Pickler(file).dump(content)
    return file.getvalue()
