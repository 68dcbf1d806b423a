"""A disk that is full, that may not be written, or whose folder moves: every command ends with a sentence.

A study whose disk is full is parked in whatever phase it is. What it goes on to is held to a study that had space.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from short_training import run as train_here
from short_training import small_config, without_times
from study_folder import Run, StudyFolder, is_over, wait_for
from train_command import TrainCommand

from autotune.core.records import TrialRecord, TrialStatus
from model.data.corpus import load
from model.data.errors import CorpusError

Mount = Callable[[str], Path]
NO_SPACE = "no space left on the disk"
FULL_TOKENS = 1_600_000
PHASES = {
    "search": "trials/0002",
    "finals": "finals/0004",
    "bracket": "bracket/*/0001",
    "full run": "full/*/0000",
}
"""The training in which the disk is full, by its folder."""


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a disk in memory with some options at disk/, where this machine lets us."""
    disk = tmp_path / "disk"

    def mounted(options: str) -> Path:
        disk.mkdir()
        answer = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True, check=False
        )
        if answer.returncode:
            pytest.skip("only root may mount a disk")
        return disk

    yield mounted
    if os.path.ismount(disk):
        subprocess.run(["umount", disk], check=True)


def _fill(disk: Path) -> Path:
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler


def _assert_told(run: Run, *words: str) -> None:
    assert run.end() == 3, run.text
    assert "Traceback" not in run.text, run.text
    assert all(word in run.text for word in words), run.text


def test_full_disk_in_every_command(copy: StudyFolder, mount: Mount) -> None:
    disk = mount("size=4m")
    shutil.copytree(copy.directory().root, disk / "fake")
    filler = _fill(disk)
    _assert_told(copy.run("report", out="disk"), NO_SPACE, "free some space and run again")
    _assert_told(copy.command("run", "fake", "--out", "disk", "--trials", "12", "--device", "cpu"), NO_SPACE)
    _assert_told(copy.command("promote", "fake", "--out", "disk", "--tokens", "500000", "-y"), NO_SPACE)
    _assert_told(copy.command("run", "fake.toml", "--out", "disk/new", "--device", "cpu"), NO_SPACE)
    _assert_told(copy.command("compare", "disk/fake", "runs/fake", "--folder", "disk/compare"), NO_SPACE)
    # What only reads needs no space.
    status = copy.command("status", "fake", "--out", "disk")
    assert status.end() == 0 and "verdict: better" in status.text, status.text
    filler.unlink()
    again = copy.command("run", "fake", "--out", "disk", "--trials", "9", "--device", "cpu")
    assert again.end() == 0, again.text


def test_disk_without_inodes(copy: StudyFolder, mount: Mount) -> None:
    disk = mount("size=20m,nr_inodes=200")
    shutil.copytree(copy.directory().root, disk / "fake")
    with contextlib.suppress(OSError):
        for number in range(200):
            (disk / f"file-{number}").touch()
    run = copy.command("run", "fake", "--out", "disk", "--trials", "12", "--device", "cpu")
    _assert_told(run, "no space left on the disk for another file (df -i shows its inodes)")


def test_read_only_disk(copy: StudyFolder, mount: Mount) -> None:
    disk = mount("size=20m")
    shutil.copytree(copy.directory().root, disk / "fake")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    _assert_told(copy.command("run", "fake", "--out", "disk", "--device", "cpu"), "Read-only file system", "--out")
    _assert_told(copy.command("report", "fake", "--out", "disk"), "report", "Read-only file system")
    status = copy.command("status", "fake", "--out", "disk")
    assert status.end() == 0 and "verdict: better" in status.text, status.text


def _all_phases(folder: StudyFolder) -> StudyFolder:
    """Writes a study with every phase, whose grid is the same however often it is begun anew."""
    return folder.write(
        trainer="length_fake_trainer:train",
        budget={"trials": 4},
        base={"sigma": 0.001, "lr": 0.05, "seconds": 0.1},
        space={"lr": {"choices": [0.012, 0.05]}, "gain": {"choices": [0.0, 0.4]}},
        sampler={"name": "grid"},
        pruner={"name": "none"},
        finals={"finalists": 2},
        promote={"tokens": FULL_TOKENS, "automatic": True},
    )


def _outcome(folder: StudyFolder, out: str) -> dict[str, Any]:
    """Returns what a study has come to, without its numbers, which follow the order of the trainings."""
    record, told = folder.record(out), folder.optuna_trials(out)
    assert is_over(told)
    for trials in (record.trials, record.finals):
        repeated = {trial.retry_of for trial in trials} - {None}
        assert repeated == {trial.number for trial in trials if trial.status is TrialStatus.INTERRUPTED}

    # "fake.bracket-3-100000-on-18750" is of trial 3.
    kinds = {name: re.sub(r"^fake|-\d+", "", name, count=2) for name in told}
    ended = Counter(kinds[name] for name, trials in told.items() for trial in trials if trial.values)
    best = tomllib.loads(record.run.best_config.read_text())
    full = record.attributes.full_run
    return {
        "trials": _finished(record.trials),
        "finals": _finished(record.finals),
        "longer": {kind: count for kind, count in ended.items() if "-" in kind},
        "verdict": record.verdict.word if record.verdict else None,
        "config": best["config"],
        "full run": (full.status, full.tokens_seen, full.val_loss),
    }


def _finished(trials: tuple[TrialRecord, ...]) -> Counter[tuple[Any, ...]]:
    counted = Counter(
        (str(sorted(trial.params.items())), trial.seed, trial.stage, trial.loss)
        for trial in trials
        if trial.status is not TrialStatus.INTERRUPTED
    )
    assert set(counted.values()) == {1}
    return counted


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, hardware: dict[str, Any]) -> dict[str, Any]:
    """What the study of all phases comes to with space."""
    folder = _all_phases(StudyFolder(tmp_path_factory.mktemp("undisturbed"), hardware))
    run = folder.run()
    assert run.end() == 0, run.text
    return _outcome(folder, "runs")


@pytest.mark.parametrize(
    "phase",
    [name if name in ("search", "full run") else pytest.param(name, marks=pytest.mark.thorough) for name in PHASES],
)
def test_full_disk_in_each_phase(folder: StudyFolder, mount: Mount, undisturbed: dict[str, Any], phase: str) -> None:
    disk = mount("size=12m")
    run = _all_phases(folder).start(out="disk")
    wait_for(lambda: list((disk / "fake").glob(f"{PHASES[phase]}/metrics.jsonl")) or run.process.poll() is not None)
    filler = _fill(disk)
    _assert_told(run, NO_SPACE, "free some space and run again")

    filler.unlink()
    again = folder.run(out="disk")
    assert again.end() == 0, again.text
    outcome = _outcome(folder, "disk")
    outcome["config"]["log_dir"] = undisturbed["config"]["log_dir"]
    assert outcome == undisturbed


def test_full_disk_while_the_hardware_is_measured(folder: StudyFolder, mount: Mount) -> None:
    disk = mount("size=4m")
    folder.write(budget={"trials": 2}, finals={"finalists": 0})
    run = folder.begin("run", "fake.toml", "--out", "disk", "--device", "cpu")
    assert run.says("profiling the hardware")
    filler = _fill(disk)
    _assert_told(run, f"disk/fake/hardware.json: {NO_SPACE}", "free some space and run again")

    filler.unlink()
    again = folder.command("run", "fake.toml", "--out", "disk", "--device", "cpu")
    assert again.end() == 0, again.text
    assert "profiling the hardware" in again.text
    # Nor does a backup that found no space leave anything behind.
    assert not list((disk / "fake").glob(".*.tmp*"))


def test_full_disk_while_a_checkpoint_of_the_full_run_is_written(folder: StudyFolder, mount: Mount) -> None:
    disk = mount("size=12m")
    folder.write(
        trainer="resuming_fake_trainer:train",
        budget={"trials": 2},
        base={"fault": "gate", "fault_budget": FULL_TOKENS},
        finals={"finalists": 0},
        promote={"tokens": FULL_TOKENS, "automatic": True},
    )
    run = folder.start(out="disk")
    folder.wait_at_gate()
    filler = _fill(disk)
    folder.open_gate()
    _assert_told(run, NO_SPACE, "free some space and run again")

    filler.unlink()
    again = folder.run(out="disk")
    assert again.end() == 0, again.text
    full = folder.record("disk").attributes.full_run
    assert (full.status, full.tokens_seen) == ("finished", FULL_TOKENS)
    assert (folder.log / "begun_at.txt").read_text().split() == ["0", str(2 * FULL_TOKENS // 5)]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.thorough
def test_full_disk_in_a_training_of_a_file(speeches: Path, mount: Mount, tmp_path: Path) -> None:
    """Two checkpoints have room there, and a third has none."""
    tokens = 4096
    config = small_config(speeches, output={"checkpoint_every_tokens": 1024, "sample_tokens": 0})
    output = config.output.model_copy(update={"dir": str(tmp_path / "whole")})
    expected, facts = train_here(config.model_copy(update={"output": output}), tokens)

    disk = mount("size=1000k")
    command = TrainCommand(disk, config, tokens)
    process = command.start()
    text, _ = process.communicate(timeout=200)
    assert process.returncode == 3, text
    assert text.splitlines()[-1] == (
        f"{command.out}: {NO_SPACE}; what was stored before is safe: free some space and run again, which goes on from "
        "the last checkpoint"
    )
    kept = command.kept()
    assert len(kept) == 2

    subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
    command.run()
    assert without_times(command.curve()) == without_times(expected[:-1])
    assert command.weights().read_bytes() == Path(str(facts["weights_path"])).read_bytes()
    assert not list(command.out.rglob("*.tmp"))


@pytest.mark.parametrize("size_kib", [4, 200])
def test_full_disk_of_the_tokenised_text(speeches: Path, mount: Mount, size_kib: int) -> None:
    """No room for the tokenizer, and none for the tokens."""
    disk = mount(f"size={size_kib}k")
    data = small_config(speeches, data={"cache_dir": str(disk)}).data
    with pytest.raises(CorpusError, match="no space left on its disk for the tokenised text") as told:
        load(data)
    assert str(told.value).startswith(f'data.cache_dir = "{disk}"')
    assert (told.value.exit_code, told.value.setting) == (3, "data.cache_dir")

    subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
    assert load(data).data_hash == load(small_config(speeches).data).data_hash


def test_trainer_that_meets_a_full_disk(folder: StudyFolder) -> None:
    """No setting is blamed: the study is parked, and the trial is trained again."""
    faults = {"fault": "full-disk", "fault_budget": 100_000, "strikes": 1}
    run = folder.write(budget={"trials": 3}, base=faults, pruner={"name": "none"}, finals={"finalists": 0}).run()
    _assert_told(
        run, "a training found no space left on the disk (OSError: [Errno 28]", "free some space and run again"
    )
    again = folder.run()
    assert again.end() == 0, again.text
    statuses = [trial.status for trial in folder.record().trials]
    assert statuses == [TrialStatus.INTERRUPTED] + 3 * [TrialStatus.FINISHED]


def test_probe_that_meets_a_full_disk(folder: StudyFolder) -> None:
    run = folder.write(base={"fault": "full-disk"}).run()
    _assert_told(run, "a training found no space left on the disk", "free some space and run again")
    assert "fix this in [base]" not in run.text


def test_folder_that_is_moved_while_its_study_runs(folder: StudyFolder) -> None:
    gate = {"fault": "gate", "fault_budget": 100_000}
    run = folder.write(budget={"trials": 2}, base=gate, finals={"finalists": 0}).start()
    folder.wait_at_gate()
    # A backup from the first minute on.
    assert folder.directory().backup.exists()
    folder.directory().root.rename(folder.root / "runs" / "moved")
    _assert_told(run, "runs/fake was moved, renamed or deleted while the study ran")
    folder.open_gate()
    again = folder.command("run", "moved", "--device", "cpu")
    assert again.end() == 0, again.text
