"""A program swept through its command line, unchanged: what it prints decides, and it ends when its trial does."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from autotune.cli.main import app
from autotune.core.errors import UserError

PROGRAM = """
import argparse, json, math, random, sys, time

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
parser.add_argument("--seed", type=int)
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--sleep", type=float, default=0.0)
asked = parser.parse_args()
print("starting with", vars(asked))
for epoch in range(1, asked.epochs + 1):
    time.sleep(asked.sleep)
    accuracy = 0.9 - 0.05 * math.log10(asked.lr / 0.03) ** 2 - 0.5 * math.exp(-5 * epoch / asked.epochs)
    accuracy += random.Random(asked.seed).gauss(0, 0.003)
    print(json.dumps({"epochs": epoch, "accuracy": accuracy, "note": "text"}), flush=True)
if asked.lr > 0.5:
    sys.exit("the learning rate is far too high")
"""
STUDY = """
name = "sweep"
command = "{python} train.py --lr {{lr}} --seed {{seed}}{more}"
metric = {{name = "accuracy", direction = "maximize", budget_unit = "epochs"}}
budget = {{tokens = 10, trials = 8}}
finals = {{finalists = 1, prove_seeds = 3, max_seeds = 3, attribute_seeds = 0}}
limits = {{min_free_bytes = 0, crashes = 9}}

[base]
lr = 0.001

[space]
lr = {{low = 0.0001, high = 1.0, log = true}}
"""


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "autotune", *arguments]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def autotune(folder: Path, *arguments: str, code: int = 0) -> str:
    process = start(folder, *arguments)
    said, _ = process.communicate(timeout=200)
    assert process.returncode == code, said
    return said


@pytest.fixture
def place(tmp_path: Path, hardware: dict[str, Any]) -> Path:
    """An empty folder on a machine that was measured already."""
    measured = tmp_path / "runs/sweep/hardware.json"
    measured.parent.mkdir(parents=True)
    measured.write_text(json.dumps(hardware), encoding="utf-8")
    return tmp_path


def write(folder: Path, more: str = " --epochs {budget}") -> None:
    (folder / "train.py").write_text(PROGRAM, encoding="utf-8")
    (folder / "sweep.toml").write_text(STUDY.format(python=sys.executable, more=more), encoding="utf-8")


def test_a_program_is_swept_unchanged(place: Path) -> None:
    write(place)
    said = autotune(place, "run", "sweep.toml")
    assert re.search(r"trial 0 finished  accuracy 0\.\d+ \(best so far\)", said)
    assert "better: Better settings were found" in said
    trial = place / "runs/sweep/trials/0000"
    assert (trial / "log.txt").read_text().startswith("starting with {'lr': 0.001")
    points = [json.loads(line) for line in (trial / "metrics.jsonl").read_text().splitlines()]
    assert [point["epochs"] for point in points] == list(range(1, 11)) and points[-1]["accuracy"] > 0.7


def test_a_program_that_fails_says_why_and_the_study_goes_on(place: Path) -> None:
    write(place)
    fails = "--set=enqueue=[{lr = 0.9}]"
    said = autotune(
        place, "run", "sweep.toml", fails, "--trials=3", "--set=finals.finalists=0", "--set=pruner={name='none'}"
    )
    assert "crashed: RuntimeError" in said and "ended with exit code 1" in said and "far too high" in said


def test_one_that_is_not_told_its_length_is_stopped_at_it(place: Path) -> None:
    write(place, more="")
    said = autotune(place, "run", "sweep.toml", "--trials=2", "--set=budget.tokens=5", "--set=finals.finalists=0")
    assert "trial 0 finished" in said
    points = (place / "runs/sweep/trials/0000/metrics.jsonl").read_text().splitlines()
    assert [json.loads(point)["epochs"] for point in points] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_no_program_outlives_its_study(place: Path, sent: signal.Signals) -> None:
    write(place, more=" --epochs {budget} --sleep 0.3")
    process = start(place, "run", "sweep.toml")
    deadline = time.monotonic() + 60
    while not (place / "runs/sweep/trials/0000/metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)

    process.send_signal(sent)
    process.communicate(timeout=60)
    assert process.returncode == (130 if sent is signal.SIGINT else -signal.SIGKILL)
    while _alive(place) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(place)


def _alive(folder: Path) -> list[int]:
    found = []
    for process in psutil.process_iter(["cwd", "cmdline"]):
        if process.info["cwd"] == str(folder) and "train.py" in (process.info["cmdline"] or ()):
            found.append(process.pid)
    return found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("command = 'python train.py --lr {lr}'", "it does not name {seed}"),
        ("command = 'python train.py --seed {seed}'", "the command does not name {lr}, so it would change nothing"),
        ("command = 'python train.py --lr {lr} --seed {seed} --wd {wd}'", "[base] has no wd, which it names"),
        ('command = "python \'train.py --lr {lr} --seed {seed}"', "it cannot be split into arguments: No closing"),
        ("pattern = 'acc ('", "it is no regular expression"),
        ("pattern = 'acc (?P<accuracy>.+)'", "it has no group (?P<epochs>[0-9.e+-]+)"),
        ("trainer = 'my_trainer:train'", "a study has a trainer or a command, and not both"),
        ("command = ''", "metric belongs to a command"),
    ],
)
def test_what_is_wrong_with_a_command_is_told(place: Path, change: str, words: str) -> None:
    write(place)
    with contextlib.chdir(place):
        refused = CliRunner().invoke(app, ["plan", "sweep.toml", "--set", change])
    assert isinstance(refused.exception, UserError) and words in str(refused.exception)
