"""A study of which only its mirror is left: killed, its run directory deleted, gone on with elsewhere."""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from optuna.trial import TrialState
from study_folder import StudyFolder, is_over, wait_for
from told import Told, count, includes, told, told_in

from autotune.core.records import TrialStatus, VerdictWord
from autotune.promotion.next_step import next_step
from autotune.store.mirror import Manifest, Mirror

KILLS = 3
FULL_TOKENS = 200_000
TRIALS = 6
OFTEN = ("--mirror", "drive", "--mirror-minutes", "0.005")
PARKED = 130


def killed_again_and_again(folder: StudyFolder, kills: int, seed: int) -> list[str]:
    """Kills a study at random moments with only its mirror left each time, then lets it end.

    Returns:
        A line for each kill: what the newest snapshot held, and what was lost.
    """
    folder.write(
        trainer="resuming_fake_trainer:train",
        budget={"trials": TRIALS},
        base={"evaluations": 8, "seconds": 0.3},
        promote={"tokens": FULL_TOKENS, "automatic": True},
    )
    (folder.root / "drive").mkdir()
    mirror, draw = Mirror(folder.root / "drive" / "fake"), random.Random(seed)
    lines, kept = [], list[Told]()
    for number in range(kills):
        run = folder.start(*OFTEN)
        wanted = _begun(folder) + draw.randint(1, 2)
        wait_for(lambda: _begun(folder) >= wanted or run.process.poll() is not None)  # noqa: B023 - called here
        time.sleep(draw.uniform(0, 0.4))
        assert run.process.poll() is None, f"over before kill {number}:\n{run.text}"
        run.kill()
        folder.wait_until_empty()

        reached = told(folder.directory())
        shutil.rmtree(folder.directory().root)
        with contextlib.suppress(IndexError):
            kept.append(told_in(mirror, newest(mirror), folder.root / "looked-at"))
            before, after = count(reached), count(kept[-1])
            lines.append(f"kill {number}: {before} trainings had ended, {after} of them in the newest snapshot")
            assert includes(reached, kept[-1])

    last = folder.start(*OFTEN)
    assert last.end() == 0, last.text
    final = told(folder.directory())
    for snapshot in kept:
        assert includes(final, snapshot)
    return [*lines, last.text.strip().splitlines()[-1]]


def _begun(folder: StudyFolder) -> int:
    """Return how many trainings began, probes included, by the log that lies outside of the run directory."""
    log = folder.log / "started.txt"
    return log.read_text().count("\n") if log.exists() else 0


def newest(mirror: Mirror) -> Manifest:
    return mirror.manifests()[0][0]


def assert_whole(folder: StudyFolder) -> None:
    """Asserts that nothing is doubled, nothing is missing, and the verdict is that of a night without kills."""
    record, trials = folder.record(), folder.optuna_trials()
    assert is_over(trials)
    assert record.verdict is not None and record.verdict.word is VerdictWord.BETTER
    assert record.attributes.full_run.status == "finished"
    counted = [trial for trial in record.trials if trial.status is not TrialStatus.INTERRUPTED]
    assert len(counted) == TRIALS and sum(trial.role == "baseline" for trial in counted) == 1
    finals = Counter((run.arm, run.seed, run.stage) for run in record.finals if run.status is TrialStatus.FINISHED)
    assert set(finals.values()) == {1} and len(finals) == 6
    (full,) = (group for name, group in trials.items() if ".full-" in name)
    assert sum(trial.state is TrialState.COMPLETE for trial in full) == 1


def test_killed_with_only_the_mirror_left(folder: StudyFolder) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed of the kills: {seed}")
    print("\n".join(killed_again_and_again(folder, KILLS, seed)))
    assert_whole(folder)
    assert len(Mirror(folder.root / "drive" / "fake").manifests()[0]) == 2


def test_a_full_run_goes_on_from_its_mirrored_checkpoint(folder: StudyFolder) -> None:
    folder.write(
        trainer="resuming_fake_trainer:train",
        budget={"trials": 2},
        base={"evaluations": 4, "fault": "gate", "fault_budget": FULL_TOKENS},
        promote={"tokens": FULL_TOKENS, "automatic": True, "bracket": False},
    )
    (folder.root / "drive").mkdir()
    mirror = Mirror(folder.root / "drive" / "fake")
    run = folder.start(*OFTEN)
    folder.wait_at_gate()
    # Two of four evaluations are over, and the checkpoint of the second is in the mirror once nothing changes any more.
    second = f"{FULL_TOKENS / 2}"
    wait_for(lambda: _checkpoint(folder, mirror).startswith(second))
    run.kill()
    folder.wait_until_empty()
    shutil.rmtree(folder.directory().root)
    folder.open_gate()
    (folder.log / "begun_at.txt").unlink()

    # On a fresh machine the study file itself may be gone as well: the name is enough.
    folder.file.unlink()
    again = folder.command("run", "fake", "--mirror", "drive")
    assert again.end() == 0, again.text
    assert "going on from the snapshot of" in again.text
    assert (folder.log / "begun_at.txt").read_text() == f"{FULL_TOKENS // 2}\n"
    assert folder.record().attributes.full_run.status == "finished"


def _checkpoint(folder: StudyFolder, mirror: Mirror) -> str:
    manifests = mirror.manifests()[0]
    for name, content in manifests[0].files.items() if manifests else ():
        if name.endswith("checkpoint.txt"):
            return b"".join(mirror.read(content)).decode()
    return ""


def test_two_machines_take_turns(folder: StudyFolder) -> None:
    """What the first has is earlier once the second went on, so it goes on from the mirror, and keeps its own aside."""
    folder.write(budget={"trials": 5}, base={"fault": "gate", "fault_budget": 100_000, "strikes": 1})
    (folder.root / "drive").mkdir()
    first = folder.start("--mirror", "drive", out="one")
    folder.wait_at_gate()
    assert folder.run("stop", "--now", out="one").end() == 0
    assert first.end() == PARKED, first.text
    assert f"resume with: autotune run fake --mirror {folder.root / 'drive'} --out one" in first.text

    folder.open_gate()
    second = folder.run("--mirror", "drive", "--trials", "5", out="two")
    assert second.end() == 0, second.text
    assert "going on from the snapshot of" in second.text
    third = folder.run("--mirror", "drive", out="one")
    assert third.end() == 0, third.text
    assert "going on from the snapshot of" in third.text
    assert folder.record("one").verdict == folder.record("two").verdict
    assert list((folder.directory("one").root / "set_aside").glob("before-the-mirror-*/study.db"))


def test_a_drive_that_is_gone_in_mid_run_costs_the_study_nothing(folder: StudyFolder) -> None:
    folder.write(budget={"trials": 4}, base={"fault": "gate", "fault_budget": 100_000, "strikes": 1})
    drive, away = folder.root / "drive", folder.root / "away"
    drive.mkdir()
    run = folder.start(*OFTEN)
    folder.wait_at_gate()
    assert run.says("the first snapshot is in it")
    drive.rename(away)
    assert run.says("cannot be written")
    folder.open_gate()
    assert run.end() == 0, run.text
    assert run.text.count("cannot be written") == 1
    assert "the last snapshot could not be written" in run.text
    assert folder.record().verdict.word is VerdictWord.BETTER

    # The drive is back with an earlier state: what is here wins, and the mirror follows.
    away.rename(drive)
    again = folder.run("--mirror", "drive")
    assert again.end() == 0, again.text
    assert "going on from" not in again.text and "mirrored to" in again.text
    assert newest(Mirror(drive / "fake")).done.trials == count(told(folder.directory()))


@pytest.mark.parametrize("options", ["ro", "size=12k"])
def test_a_drive_that_takes_nothing_costs_the_study_nothing(folder: StudyFolder, options: str) -> None:
    disk = folder.root / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("only root may mount a disk")
    try:
        run = folder.write(budget={"trials": 2}).run("--mirror", "disk")
        assert run.end() == 0, run.text
        assert "there is no snapshot of this run in" in run.text
        assert "Traceback" not in run.text
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_study_in_a_shared_database_needs_no_mirror(folder: StudyFolder) -> None:
    run = folder.write(storage="postgresql://user@nowhere.invalid/db").run("--mirror", "drive")
    assert run.end() == 2
    assert "leave --mirror out" in run.text


def test_a_night_over_sessions_counts_its_hours_together(folder: StudyFolder) -> None:
    """60 trials of half a second in sessions of 18 s: each parks by itself, before its end."""
    folder.write(budget={"trials": 60, "ends_early": False}, base={"seconds": 0.5}, pruner={"name": "none"})
    (folder.root / "drive").mkdir()
    sessions = ("--session-hours", "0.005", "--mirror", "drive")
    run = folder.run("--hours", "0.05", *sessions)
    assert run.end() == PARKED, run.text
    assert "the session ends before: it parks at about" in run.text
    assert "resume with: autotune run fake --hours 0.05 --session-hours 0.005 --mirror drive" in run.text
    first = folder.record()
    assert 8 < first.attributes.worked_s < 18
    assert not any(trial.status is TrialStatus.INTERRUPTED for trial in first.trials)

    # Of 30 s in all, less than the report's 20 are left, so that nothing more is trained.
    trained = len(folder.started())
    shutil.rmtree(folder.directory().root)
    assert "no time for" in folder.run("--hours", f"{30 / 3600}", *sessions).text
    assert len(folder.started()) == trained

    codes = [PARKED]
    while codes[-1] == PARKED and len(codes) < 8:
        codes.append(folder.run("--hours", "0.05", *sessions).end())
    assert codes[-1] == 0 and len(codes) > 2
    record = folder.record()
    assert record.verdict is not None and record.verdict.word is VerdictWord.BETTER
    assert sum(trial.status.teaches for trial in record.trials) == 60
    assert next_step(record).command == "autotune promote fake --session-hours 0.005 --mirror drive"
    assert record.attributes.worked_s == 0, "what is run from now on is another night"


def test_a_session_that_is_shorter_than_a_training_is_refused(folder: StudyFolder) -> None:
    folder.write(base={"seconds": 20, "evaluations": 20})
    run = folder.run("--session-hours", "0.002")
    assert run.end() == 2, run.text
    assert "raise --session-hours" in run.text and "Traceback" not in run.text


def test_a_full_run_parks_before_its_session_ends(folder: StudyFolder) -> None:
    """It takes 10 s, and the first session has 5.4."""
    folder.write(
        trainer="resuming_fake_trainer:train",
        budget={"trials": 2},
        base={"seconds": 0.5, "evaluations": 4},
        promote={"tokens": 2_000_000, "num_evals": 20, "bracket": False},
    )
    assert folder.run().end() == 0
    first = folder.run("promote", "--yes", "--session-hours", "0.0015")
    assert first.end() == PARKED, first.text
    assert "resume with: autotune promote fake --tokens 2000000 --session-hours 0.0015" in first.text
    stopped = folder.record().attributes.full_run
    assert "full run interrupted: stopped at " in first.text and "tokens as the session ends" in first.text

    again = folder.run("promote", "--yes", "--tokens", "2000000")
    assert again.end() == 0, again.text
    begun = list(map(int, (folder.log / "begun_at.txt").read_text().split()))
    assert begun == [0, stopped.tokens_seen]
    assert folder.record().attributes.full_run.status == "finished"


def test_a_missing_drive_is_told_before_anything_is_trained(folder: StudyFolder) -> None:
    run = folder.write().run("--mirror", str(Path("content") / "drive" / "MyDrive"))
    assert run.end() == 2
    assert "is the drive mounted?" in run.text
    assert not folder.started()
