"""A trainer of one's own, as `autotune init --trainer` writes it and the README shows it: numpy, no language model."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import autotune as autotune_module
from autotune.cli.init import TRAINER
from autotune.cli.main import app
from autotune.core.errors import UserError
from reports.figures.study_cards import draw_cards
from reports.sentences.trial_rows import trial_rows

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

    with contextlib.chdir(tmp_path):
        said = invoked("init", "regression", "--trainer", "my_trainer.py")
    assert said == "wrote my_trainer.py and regression.toml; next: autotune run regression.toml\n"
    return tmp_path


def test_a_true_improvement_is_found_and_told_in_the_trainers_words(folder: Path) -> None:
    said = autotune(folder, "run", "regression.toml", *SHORT)
    assert re.search(r"trial 0 finished  error 0\.\d+ K", said) and re.search(r"pruned: .* epochs \(error .* K\)", said)
    assert "better: Better settings were found" in said

    with contextlib.chdir(folder):
        state, shown = json.loads(invoked("status", "regression", "--json")), invoked("status", "regression")
    assert state["verdict"] == "better" and state["gain_low"] > 0
    assert re.search(r"best so far \(one seed\): trial \d+, error 0\.\d+ K", shown)


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


OF_OTHER_TRAININGS = re.compile(
    r"\bloss|\bnats?\b|perplex|surpris|(?<!-)\btokens?\b|bits per byte|\btexts?\b|language model|lower is better", re.I
)
"""What nobody should read of a trainer that reports an r2 by epochs; `--tokens` is the option's name."""


def read_by_people(path: Path) -> str:
    """A file as it is read; of a page what is visible, and what its figures draw."""
    content = path.read_text(encoding="utf-8")
    if path.suffix == ".html":
        content = re.sub(r"<style>.*?</style>|<script(?! type=.application/json).*?</script>", "", content, flags=re.S)
        content = re.sub(r'"text":|%{text}|<[^>]+>', "", content)
    return content


def test_higher_may_be_better_and_everything_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    also = '"also": {"rmse": "root of the mean square"}'
    content = TRAINER.replace('"name": "error", "unit": "K"', f'"name": "r2", "direction": "maximize", {also}')
    content = content.replace('"error": error', '"r2": 1 - error**2 / float(np.var(targets[500:])), "rmse": error')
    (folder / "my_trainer.py").write_text(content, encoding="utf-8")
    promoted = "--set=promote={automatic=true,tokens=80}"
    said = autotune(folder, "run", "regression.toml", *SHORT, "--trials=20", promoted, "--set=finals.attribute_seeds=2")

    values = [float(value) for value in re.findall(r"trial \d+ finished  r2 (-?[\d.]+)", said)]
    best = float(re.findall(r"r2 (-?[\d.]+) \(best so far\)", said)[-1])
    assert best == max(values) > 0 and "better: Better settings were found: r2 is " in said
    assert re.search(r"full run +100%  r2 0\.\d+", said) and re.search(r"root of the mean square [\d.]+ → [\d.]+", said)

    shutil.copytree(folder / "runs/regression", folder / "runs/again")
    monkeypatch.chdir(folder)
    monkeypatch.setattr("reports.figures.pictures.find_spec", lambda name: None)  # no browser is started
    shown = {words[0]: invoked(*words) for words in COMMANDS}
    shown |= {"run": said, "train": autotune(folder, "train", "runs/regression/best_config.toml", "--tokens=20")}
    written = [*Path("runs/regression/report").glob("*.*"), *Path("runs").glob("*/index.html"), Path("README.md")]
    texts = shown | {str(path): read_by_people(path) for path in [*written, Path("runs/regression/events.jsonl")]}
    assert len(written) == 8
    found = {name: match[0] for name, words in texts.items() if (match := OF_OTHER_TRAININGS.search(words))}
    assert not found and [name for name, words in texts.items() if "r2" not in words] == ["plan"]

    signs_are_right(best)
    assert json.loads(shown["status"])["best_loss"] == pytest.approx(best, rel=1e-3)
    for name in ("compare", "timeline"):
        before, after, percent = map(float, re.findall(r"r2 ([\d.]+) → ([\d.]+), \+([\d.]+) %", texts[name])[0])
        assert percent == pytest.approx(100 * (after / before - 1), abs=0.06)


COMMANDS = (
    ("status", "regression", "--json"), ("plan", "regression.toml"), ("compare", "regression", "again"),
    ("timeline", "--into", "README.md"),
)  # fmt: skip


def invoked(*words: str) -> str:
    """What a command says that is asked in this process, which has done the imports; of one that is refused, why."""
    ended = CliRunner().invoke(app, list(words))
    if isinstance(ended.exception, UserError):
        return str(ended.exception)
    assert ended.exit_code == 0, ended.output
    return ended.output


def signs_are_right(best: float) -> None:
    """In files, tables from Python and figures."""
    report = json.loads(Path("runs/regression/report/report.json").read_text(encoding="utf-8"))
    verdict, default, winner = report["verdict"], *report["finals"][:2]
    assert verdict["baseline_r2"] == pytest.approx(default["mean"]) and 0 < default["mean"] < verdict["winner_r2"]
    assert verdict["winner_r2"] - verdict["baseline_r2"] == pytest.approx(verdict["gain"])
    assert winner["low"] < winner["mean"] < winner["high"] and report["full"]["r2"] > 0

    study = autotune_module.load("runs/regression")
    trials, curves = study.trials, study.curves
    assert trials["r2"].max() == pytest.approx(best, rel=1e-3) and trials["rmse"].min() > 0
    ends = curves[(curves["queue"] == "search") & (curves["epochs"] == 40)].set_index("number")["r2"]
    assert ends.equals(trials[trials["status"] == "finished"].set_index("number")["r2"])

    cards = {card.key: card for card in draw_cards(study.record)}
    lines = {line.name: line for line in cards["best-so-far"].plots[0].data}
    assert lines["best so far"].y[-1] == trials["r2"].max() and not any(card.broken for card in cards.values())
    assert trial_rows(study.record).rows[0].cells[3] == f"{best:#.5g}"
    kept = tomllib.loads(Path("runs/regression/best_config.toml").read_text(encoding="utf-8"))["provenance"]
    assert kept["winner_r2"] == verdict["winner_r2"] and "winner_loss" not in kept


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
    with contextlib.chdir(folder):
        said = invoked("init", "other", "--trainer", "my_trainer.py")
        assert "my_trainer.py is there already" in said and not (folder / "other.toml").exists()
        assert "name a Python file" in invoked("init", "other", "--trainer", "my-trainer.txt")


@pytest.mark.thorough
def test_a_study_for_a_text_can_be_planned(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("My fellow citizens, this is what I have to tell you. \n\n" * 8_000)
    with contextlib.chdir(tmp_path):
        invoked("init", "mine", "--text", "book.txt")
        assert "there is no such file" in invoked("init", "none", "--text", "nothing.txt")
    assert "trials of 163,840 tokens" in autotune(tmp_path, "plan", "mine.toml")
