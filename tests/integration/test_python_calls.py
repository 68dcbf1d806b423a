"""Studies from Python: scripts without a guard, threads, what comes back, and what is refused."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from study_folder import StudyFolder

import autotune

ROOT = Path(__file__).parents[2]
SCRIPT = """
from __future__ import annotations
import math, random, sys
from dataclasses import dataclass
import autotune

print("the script begins")

@dataclass
class Config:
    lr: float = 0.001
    seed: int = 0

BEST = 0.01

def distance(lr):
    return math.log10(lr / BEST) ** 2

def fit(config: Config, budget_tokens: int, report):
    noise = random.Random(config.seed).gauss(0, 0.01)
    for number in range(1, 6):
        loss = 2 + distance(config.lr) + 2 * math.exp(-number) + noise
        report({"tokens_seen": budget_tokens * number // 5, "val_loss": loss})

study = autotune.tune(
    fit, {"lr": {"low": 1e-4, "high": 1.0, "log": True}}, tokens=100_000, trials=6, device="cpu",
    sampler={"name": "tpe"}, finals={"prove_seeds": 2, "max_seeds": 2}, limits={"min_free_bytes": 0},
)
print("ended:", study.state, study.verdict.word, 0.003 < study.best_config["lr"] < 0.03)
"""


@pytest.fixture
def place(tmp_path: Path, hardware: dict[str, Any]) -> Path:
    """An empty folder, in which the machine was measured already."""
    profiled = tmp_path / "runs" / "fit" / "hardware.json"
    profiled.parent.mkdir(parents=True)
    profiled.write_text(json.dumps(hardware))
    return tmp_path


def python(place: Path, *arguments: str, script: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a script, or a command, as a user would."""
    if script:
        (place / "script.py").write_text(script)
        arguments = ("-W", "error", "script.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.thorough
def test_a_script_without_a_guard_tunes_once_and_goes_on_elsewhere(place: Path) -> None:
    first = python(place, script=SCRIPT)
    assert first.stdout.count("the script begins") == 1, first.stderr
    assert first.stdout.endswith("ended: done better True\n"), first.stdout + first.stderr

    # The same function in another file goes on, and another is refused.
    again = python(place, script=SCRIPT.replace("the script begins", "here again").replace("trials=6", "trials=7"))
    assert again.stdout.endswith("ended: done better True\n"), again.stderr
    changed = python(place, script=SCRIPT.replace("BEST = 0.01", "BEST = 0.02"))
    assert "UserError: fit was begun with other settings" in changed.stderr
    assert "trainer: the function fit has changed, or what it uses: with another name autotune.tune" in changed.stderr

    # The study stands by itself: in another folder, without the script, by the command line.
    (place / "script.py").unlink()
    (place / "runs").rename(place / "moved")
    promoted = python(place, "-m", "autotune", "promote", "fit", "--out", "moved", "--tokens", "200000", "--yes")
    assert "full run finished" in promoted.stdout, promoted.stderr
    cloned = python(
        place,
        script="import autotune\nprint(autotune.load('moved/fit').clone('other', set={'space.lr.high': 0.5}, hours=1))",
    )
    assert cloned.stdout.splitlines()[-1] == "moved/other" and "trials of fit are taken along" in cloned.stdout
    (place / "script.py").unlink()
    loads = "from pathlib import Path; from autotune.cli.options import load_study as load"
    spec = python(place, "-c", f"{loads}; print(load('other', Path('moved'), None).spec.budget.hours)")
    assert spec.stdout == "1.0\n", spec.stderr
    trained = python(place, "-m", "autotune", "train", "moved/fit/best_config.toml", "--folder", "trained")
    assert "100%" in trained.stdout, trained.stderr


def test_what_is_wrong_with_a_call_is_told_before_anything_is_written(tmp_path: Path) -> None:
    def fit(config: dict[str, Any], budget_tokens: int, report: Any) -> None: ...

    with pytest.raises(autotune.UserError, match=r'^autotune.tune: space.lr.lgo: unknown key \(did you mean "log"\?\)'):
        autotune.tune(fit, {"lr": {"low": 1, "high": 2, "lgo": True}}, tokens=10, base={"lr": 1}, out=tmp_path)
    with pytest.raises(autotune.UserError, match="device: there is no device"):
        autotune.tune(fit, {"lr": (1, 2)}, tokens=10, base={"lr": 1}, out=tmp_path, device="tpu")
    for wrong in ({"metric": "accuracy"}, {"budget": 5}):
        with pytest.raises(autotune.UserError, match=r"(metric|budget) is .*; write a mapping"):
            autotune.tune(print, {"lr": (0.1, 1.0)}, tokens=100, **wrong)
    with pytest.raises(autotune.UserError, match="session_hours is '8'; write a number above 0"):
        autotune.tune(print, {"lr": (0.1, 1.0)}, tokens=100, session_hours="8")  # type: ignore[arg-type]
    with pytest.raises(autotune.UserError, match='give one: name="my-study"'):
        autotune.tune(lambda config, budget_tokens, report: None, {"lr": (1, 2)}, tokens=10)
    with pytest.raises(autotune.UserError, match="no such study file"):
        autotune.run(tmp_path / "nothing.toml")
    with pytest.raises(autotune.UserError, match="no study at "):
        autotune.load(tmp_path / "nothing")
    assert not list(tmp_path.iterdir())


def test_a_finished_study_comes_back_with_all_that_it_knows(copy: StudyFolder) -> None:
    from reports.exports import curves_csv, trials_csv

    study = autotune.load(copy.directory().root)
    record = copy.record()
    for table, text in ((study.trials, trials_csv(record)), (study.curves, curves_csv(record))):
        stored = pd.read_csv(io.StringIO(text))
        assert list(table.columns) == list(stored.columns) and len(table) == len(stored)

    assert study.state == "done" and study.verdict == record.verdict and study.name == "fake"
    assert study.best_config["lr"] in set(study.trials["params_lr"])
    searched = [trial.value for trial in study.optuna_study.trials]
    assert searched == [trial.loss for trial in record.trials] or len(searched) == len(record.trials)
    assert str(study).startswith("fake: done\n") and "next: autotune promote" in str(study)

    # What the README says of Optuna's own door.
    opened = optuna.load_study(study_name="fake", storage=f"sqlite:///{copy.directory().database}")
    assert [trial.value for trial in opened.trials] == searched
    opened._storage.remove_session()
    opened._storage._backend.engine.dispose()


def test_a_study_in_another_thread_is_stopped_and_goes_on_in_this_one(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.root)
    folder.write(budget={"trials": 4}, base={"fault": "gate", "fault_budget": 100_000})
    folder.place_hardware()
    ended: list[autotune.Tuned] = []
    thread = threading.Thread(target=lambda: ended.append(autotune.run("fake.toml", device="cpu")), name="night")
    thread.start()
    folder.wait_at_gate()

    study = autotune.load("fake")
    assert study.state == "running"
    with pytest.raises(autotune.UserError, match=r"fake has been running since \d\d:\d\d \(PID "):
        autotune.run("fake.toml", device="cpu")
    refused = folder.command("stop", "fake")
    assert refused.end() == 2 and "autotune.load('runs/fake').stop() parks it" in refused.text
    study.stop()
    folder.open_gate()
    thread.join()
    assert ended[0].state == study.state == "parked"
    with pytest.raises(autotune.UserError, match="has no verdict yet"):
        study.promote(device="cpu")
    with pytest.raises(autotune.UserError, match="is not running"):
        study.stop()

    assert autotune.run("fake", device="cpu", set={"limits.min_free_bytes": 1}).state == "done"
    # Numbers as tables and arithmetic have them.
    chosen = study.trials["number"].iloc[1]
    assert study.promote(tokens=2e5, trial=chosen, device="cpu").state == "done"  # type: ignore[arg-type]
    full = study.record.attributes.full_run
    assert full is not None and (repr(full.tokens), full.trial) == ("200000", 1)


def test_interrupting_the_main_thread_parks(folder: StudyFolder) -> None:
    folder.write(budget={"trials": 4}, base={"fault": "gate", "fault_budget": 100_000})
    folder.place_hardware()
    script = folder.root / "script.py"
    script.write_text("import autotune\nprint('state:', autotune.run('fake.toml', device='cpu').state)\n")
    fakes = os.pathsep.join(map(str, [ROOT, ROOT / "tests/fakes"]))
    with (folder.root / "said.txt").open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "script.py"],
            cwd=folder.root,
            env={**os.environ, "PYTHONPATH": fakes},
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        folder.wait_at_gate()
        stopped = folder.command("stop", "fake")
        folder.open_gate()
        assert process.wait(60) == 0
    text = (folder.root / "said.txt").read_text()
    assert stopped.end() == 0 and text.endswith("state: parked\n")
    assert re.search(r"^report: runs/fake/report/index.html$", text, flags=re.MULTILINE)


def test_a_study_that_cannot_go_on_raises_what_the_command_says(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.root)
    folder.write(budget={"trials": 3}, base={"fault": "nan", "fault_budget": 100_000})
    folder.place_hardware()
    with pytest.raises(autotune.UserError, match="the default settings did not train") as raised:
        autotune.run("fake.toml", device="cpu")
    assert raised.value.exit_code == 4

    study = autotune.load("fake")
    assert study.state == "parked" and study.verdict is None and len(study.trials) == 1
    assert (study.path / "report/index.html").exists()
    with pytest.raises(autotune.UserError, match="no trial has finished yet, so none is the best"):
        _ = study.best_config
