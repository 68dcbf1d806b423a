"""A trainer of one's own, as `autotune init --trainer` writes it and the README shows it: numpy, no language model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autotune.cli.init import TRAINER

SHORT = ["--trials=10", "--set=finals={finalists=1,prove_seeds=4,max_seeds=4,attribute_seeds=0}"]


def autotune(folder: Path, *arguments: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "autotune", *arguments]
    ended = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    )
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.fixture
def folder(tmp_path: Path, hardware: dict[str, Any]) -> Path:
    """A folder with the example and its study, on a machine that was measured already."""
    measured = tmp_path / "runs/regression/hardware.json"
    measured.parent.mkdir(parents=True)
    measured.write_text(json.dumps(hardware), encoding="utf-8")

    said = autotune(tmp_path, "init", "regression", "--trainer", "my_trainer.py")
    assert said == "wrote my_trainer.py and regression.toml; next: autotune run regression.toml\n"
    return tmp_path


def test_a_true_improvement_is_found_and_told_in_the_trainers_words(folder: Path) -> None:
    said = autotune(folder, "run", "regression.toml", *SHORT)
    assert re.search(r"trial 0 finished  error 0\.\d+ K", said) and re.search(r"pruned: .* epochs \(error .* K\)", said)
    assert "better: Better settings were found" in said

    state = json.loads(autotune(folder, "status", "regression", "--json"))
    assert state["verdict"] == "better" and state["gain_low"] > 0
    assert re.search(r"best so far \(one seed\): trial \d+, error 0\.\d+ K", autotune(folder, "status", "regression"))


def test_what_changes_nothing_is_not_called_better(folder: Path) -> None:
    study = (folder / "regression.toml").read_text(encoding="utf-8")
    base = study.partition("[space]")[0].replace("momentum = 0.0", "momentum = 0.0\nidle = 0.5")
    (folder / "regression.toml").write_text(f"{base}[space]\nidle = {{low = 0.0, high = 1.0}}\n", encoding="utf-8")
    assert "better: Better settings" not in autotune(folder, "run", "regression.toml", *SHORT)


def test_a_full_run_keeps_what_it_made(folder: Path) -> None:
    changes = ["--set=finals.finalists=0", "--set=promote={automatic=true,tokens=80}"]
    autotune(folder, "run", "regression.toml", "--trials=2", *changes)
    (model,) = (folder / "runs/regression/full").glob("*/weights.npy")
    assert model.stat().st_size > 0


def test_higher_may_be_better(folder: Path) -> None:
    content = TRAINER.replace('"name": "error", "unit": "K"', '"name": "r2", "direction": "maximize"')
    content = content.replace('"error": error', '"r2": 1 - error**2 / float(np.var(targets[500:]))')
    (folder / "my_trainer.py").write_text(content, encoding="utf-8")
    said = autotune(folder, "run", "regression.toml", *SHORT, "--trials=20")
    values = [float(value) for value in re.findall(r"trial \d+ finished  r2 (-?[\d.]+)", said)]
    best = float(re.findall(r"r2 (-?[\d.]+) \(best so far\)", said)[-1])
    assert best == max(values) > 0 and "better: Better settings were found" in said
    assert json.loads(autotune(folder, "status", "regression", "--json"))["best_loss"] == pytest.approx(best, rel=1e-3)


def test_a_trainer_that_does_not_use_its_seed_is_told_so_before_the_search(folder: Path) -> None:
    content = TRAINER.replace('default_rng(config["seed"])', "default_rng(1)")
    (folder / "my_trainer.py").write_text(content, encoding="utf-8")
    said = autotune(folder, "run", "regression.toml", *SHORT, code=2)
    assert "gave the same error, 0." in said and "my_trainer:train does not seem to use its seed" in said
    assert "trial 1 " not in said


def test_the_readme_shows_the_trainer_that_is_written() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert f"```python\n{TRAINER}```" in readme


def test_what_is_there_is_not_overwritten(folder: Path) -> None:
    said = autotune(folder, "init", "other", "--trainer", "my_trainer.py", code=2)
    assert "my_trainer.py is there already" in said and not (folder / "other.toml").exists()
    assert "name a Python file" in autotune(folder, "init", "other", "--trainer", "my-trainer.txt", code=2)


def test_a_study_for_a_text_can_be_planned(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("My fellow citizens, this is what I have to tell you. \n\n" * 8_000)
    autotune(tmp_path, "init", "mine", "--text", "book.txt")
    assert "trials of 163,840 tokens" in autotune(tmp_path, "plan", "mine.toml")
    assert "no such file" in autotune(tmp_path, "init", "none", "--text", "nothing.txt", code=2)
