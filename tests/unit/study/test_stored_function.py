"""Functions that no other process can import, stored as modules that every process can."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_trainer
import pytest

from autotune.core.errors import UserError
from autotune.core.metric import Metric
from autotune.study.stored_function import (
    StoredFunction,
    carry_along,
    is_importable,
    is_stored,
    make_importable,
    store,
)
from autotune.study.trainer import load_trainer

DEFINITION = """
from __future__ import annotations
import dataclasses
import pydantic

@dataclasses.dataclass(kw_only=True)
class Data:
    path: str = ""
    sizes: list[int] = dataclasses.field(default_factory=list)

class Config(pydantic.BaseModel):
    lr: float = 0.1
    data: Data = Data()

length_rules = {"lr": "learning_rate"}

def fit(config: Config, tokens: int, report):
    report({"tokens_seen": tokens, "val_loss": config.lr * len(config.data.sizes)})
"""


@pytest.fixture(autouse=True)
def _path_is_put_back() -> Iterator[None]:
    before = list(sys.path)
    yield
    sys.path[:] = before
    for name in [name for name in sys.modules if is_stored(name)]:
        del sys.modules[name]


def defined() -> Any:
    """A function of a main module, with its config's types."""
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(DEFINITION, "cell", "exec", dont_inherit=True), scope)
    return scope["fit"]


def test_functions_of_modules_are_imported_by_name_and_no_others() -> None:
    assert is_importable(fake_trainer.train)
    assert not is_importable(lambda config, tokens, report: None)
    assert not is_importable(defined())

    def inner(config: dict[str, Any], tokens: int, report: Any) -> None: ...

    assert not is_importable(inner)


def test_a_stored_function_trains_in_a_process_that_knows_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        DEFINITION + "from autotune.study.stored_function import store\nfrom pathlib import Path\n"
        "stored = store(fit)\nstored.write(Path('kept'))\nprint(stored.trainer)\n"
    )
    trainer = subprocess.run(
        [sys.executable, "script.py"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.strip()
    assert is_stored(trainer)

    make_importable(tmp_path / "kept", trainer)
    loaded, points = load_trainer(trainer), []
    assert loaded.complete({"lr": 0.5})["data"] == {"path": "", "sizes": []}
    assert loaded.length_rules == {"lr": "learning_rate"}
    loaded.run({"lr": 0.5, "data": {"sizes": [1, 2]}}, 10, lambda point: points.append(dict(point)) or True)
    assert points == [{"tokens_seen": 10, "val_loss": 1.0}]


def test_a_metric_is_stored_with_its_function_and_another_one_is_another_trainer() -> None:
    plain, higher = store(defined()), store(defined(), {"name": "r2", "direction": "maximize"})
    assert plain.trainer != higher.trainer
    higher.make_known()
    assert load_trainer(higher.trainer).metric == Metric("r2", maximize=True)


def test_what_cannot_be_copied_is_told_with_a_way_out(tmp_path: Path) -> None:
    lock = threading.Lock()

    def fit(config: dict[str, Any], tokens: int, report: Any) -> None:
        with lock:
            pass

    with pytest.raises(UserError, match=r"fit cannot be stored .*cannot pickle '_thread.lock'.*make that inside fit"):
        store(fit).write(tmp_path)


def test_the_code_of_another_python_is_refused(tmp_path: Path) -> None:
    stored = _stored(tmp_path / "kept")
    module = tmp_path / "kept" / f"{stored.module_name}.py"
    module.write_text(module.read_text().replace(f'python="3.{sys.version_info[1]}"', 'python="3.2"'))
    with pytest.raises(UserError, match=r"stored by Python 3\.2, whose code Python 3\.\d+ cannot run: call autotune"):
        load_trainer(stored.trainer)


def test_another_studys_folder_gets_a_copy(tmp_path: Path) -> None:
    stored = _stored(tmp_path / "kept")
    carry_along(tmp_path / "other", stored.trainer)
    for ending in (".py", ".pkl"):
        name = stored.module_name + ending
        assert (tmp_path / "other" / name).read_bytes() == (tmp_path / "kept" / name).read_bytes()

    carry_along(tmp_path / "third", "fake_trainer:train")
    assert not (tmp_path / "third").exists()


def test_a_folder_without_a_stored_function_is_not_looked_in_for_modules(tmp_path: Path) -> None:
    before = list(sys.path)
    make_importable(tmp_path, "stored_function_0:fit")
    make_importable(tmp_path, "fake_trainer:train")
    assert sys.path == before


def _stored(folder: Path) -> StoredFunction:
    def fit(config: dict[str, Any], tokens: int, report: Any) -> None: ...

    stored = store(fit)
    stored.write(folder)
    return stored
