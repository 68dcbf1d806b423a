"""Two processes on a study in a real PostgreSQL, and what befalls it or them in each phase of the night.

usage: python tests/benchmarks/bench_faults.py [--away 20 120] [--no-signals] [--append]     (--append: into RESULTS.md)

In each case the server is stopped for so many seconds, or one of the processes is killed (kill -9) or suspended
(SIGSTOP, for twice the silence after which its peer takes it for dead), once the phase has begun. The trainer is the
tests' own, whose trainings take no computing. Afterwards no trial, final, bracket or full run may be missing, and the
trainings that were begun are counted: one that was begun twice was doubled, or was in progress when it was cut off.
All cases of a fault run at the same time, each with a server of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from results import publish

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "tests" / "fakes")]

import postgres  # noqa: E402 - the paths come first
import study_folder  # noqa: E402
from study_folder import Run, StudyFolder, is_over, wait_for  # noqa: E402

from autotune.core.records import TrialStatus  # noqa: E402
from autotune.machine.measurement import profile  # noqa: E402

TRIALS = 6
HEARTBEAT_S = 5
SUSPENDED_S = 30
FULL_TOKENS = 1_600_000
LONG_TOKENS = 400_000
"""What the longer of the two brackets trains for."""
PHASES: dict[str, Callable[[StudyFolder, Sequence[Run]], bool]] = {
    "search": lambda folder, _: len(folder.started()) > 2,
    "finals": lambda _, peers: any("to prove its gain" in peer.text for peer in peers),
    "brackets": lambda folder, _: any(training.tokens == LONG_TOKENS for training in folder.started()),
    "full run": lambda folder, _: any(training.tokens == FULL_TOKENS for training in folder.started()),
}
_STARTING = threading.Lock()
"""The package of the server knows no threads, and processes are started one after the other."""


def write_study(folder: StudyFolder, trials: int = TRIALS, seconds: float = 2.0, **more: Any) -> None:
    """Writes a study with all phases, shared if the folder has a database.

    Args:
        folder: Where it goes.
        trials: How many it searches.
        seconds: What 100,000 tokens take.
        more: Further tables of the study file, or others in place of these.
    """
    tables: dict[str, Any] = {
        "trainer": "length_fake_trainer:train",
        "budget": {"trials": trials, "ends_early": False},
        "base": {"sigma": 0.001, "lr": 0.05, "seconds": seconds},
        "enqueue": [{"lr": 0.012}],
        "space": {"lr": {"low": 0.005, "high": 0.1, "log": True}},
        "pruner": {"name": "none"},
        "finals": {"finalists": 1},
        "promote": {"automatic": True, "tokens": FULL_TOKENS},
        "limits": {"heartbeat_s": HEARTBEAT_S, "min_free_bytes": 0},
    }
    if folder.url:
        tables["storage"] = folder.url
    folder.write(**{**tables, **more})


def case(root: Path, hardware: dict[str, Any], fault: str, phase: str) -> str:
    """Returns the row of one case.

    Args:
        root: An empty folder.
        hardware: A hardware profile as JSON.
        fault: "none", "killed", "suspended" or the seconds for which the server is away.
        phase: When it happens.
    """
    folder = StudyFolder(root, hardware)
    with contextlib.closing(postgres.servers()) as servers:
        with _STARTING:
            server = next(servers)
        folder.url = server.url
        write_study(folder)
        with _STARTING:
            peers = [folder.start(out=out, plainly=True) for out in "ab"]

        wait_for(lambda: PHASES[phase](folder, peers))
        on_again = befall(fault, server, peers)
        codes = [peer.end() for peer in peers]
        told = row(folder, fault, phase, peers, codes, on_again)
        with _STARTING:
            servers.close()
        return told


def befall(fault: str, server: postgres.Server, peers: Sequence[Run]) -> list[float]:
    """Lets a fault happen, and returns the seconds after its end at which processes said that they go on."""
    if fault == "killed":
        peers[0].signal(signal.SIGKILL)
    elif fault == "suspended":
        peers[0].signal(signal.SIGSTOP)
        time.sleep(SUSPENDED_S)
        peers[0].signal(signal.SIGCONT)
    elif fault != "none":
        with _STARTING:
            server.stop()
        time.sleep(float(fault))
        with _STARTING:
            server.start()
        return [seconds_until_back(peer) for peer in peers]
    return []


def seconds_until_back(peer: Run) -> float:
    began = time.monotonic()
    peer.says("the database is back after ")
    return time.monotonic() - began


def row(
    folder: StudyFolder, fault: str, phase: str, peers: Sequence[Run], codes: Sequence[int], on_again: Sequence[float]
) -> str:
    """Returns what became of the study, as a row of the table."""
    record = folder.record("b")
    lost = TRIALS - sum(trial.status is TrialStatus.FINISHED for trial in record.trials)
    finals = Counter((run.arm, run.seed, run.stage) for run in record.finals if run.status is TrialStatus.FINISHED)
    brackets = record.attributes.promotion.brackets if record.attributes.promotion else ()
    lost += sum(None in bracket.losses for bracket in brackets) + (len(brackets) < 2)
    lost += record.attributes.full_run is None or record.attributes.full_run.status != "finished"
    lost += record.verdict is None or not is_over(folder.optuna_trials("b"))
    twice = begun_twice(folder)
    stored_twice = sum(count - 1 for count in finals.values()) + max(0, -lost)
    traceback = any("Traceback" in peer.text for peer in peers)
    back = " / ".join(f"{seconds:.1f} s" for seconds in on_again) or "-"
    waits = sum("the database does not answer (" in peer.text for peer in peers)
    words = fault if fault in ("none", "killed", "suspended") else f"server away for {fault} s"
    ended = " / ".join(map(str, codes)) + (" with a traceback" if traceback else "")
    return f"| {phase} | {words} | {ended} | {waits} of 2 | {back} | {max(0, lost)} | {stored_twice} | {twice} |"


def begun_twice(folder: StudyFolder) -> int:
    """Returns how many trainings were begun that had been begun before, by settings, seed and length."""
    begun = Counter((training.lr, training.seed, training.tokens) for training in folder.started())
    return sum(count - 1 for count in begun.values())


def main() -> None:
    """Runs the cases and prints their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--away", nargs="*", default=["20", "120"], help="seconds for which the server is away")
    parser.add_argument("--no-signals", action="store_true", help="kill and suspend nobody")
    parser.add_argument("--append", action="store_true", help="add the table to RESULTS.md")
    arguments = parser.parse_args()
    study_folder.PATIENCE_S = 3600.0

    faults = ["none", *arguments.away, *([] if arguments.no_signals else ["killed", "suspended"])]
    hardware = profile(quick=True, device="cpu").to_json()
    lines = [
        f"## {datetime.now(UTC):%Y-%m-%d}: a server that goes away, and peers that are killed, in each phase",
        "",
        f"`python {' '.join(['tests/benchmarks/bench_faults.py', *sys.argv[1:]])}`, {platform.machine()}, "
        f"{os.cpu_count()} cores; two processes, heartbeats every {HEARTBEAT_S} s, 2 s for 100,000 tokens.",
        "",
        "| phase | fault | exit codes | say that they wait | go on after its return | lost | stored twice "
        "| trainings begun twice |",
        "|---|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory(prefix="faults-") as root, ThreadPoolExecutor(len(PHASES)) as pool:
        for fault in faults:
            phases = list(PHASES)[:1] if fault == "none" else list(PHASES)
            rows = [pool.submit(case, Path(root, fault, phase), hardware, fault, phase) for phase in phases]
            lines += [row.result() for row in rows]
    publish(lines, append=arguments.append)


if __name__ == "__main__":
    main()
