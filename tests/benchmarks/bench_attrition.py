"""Processes that die and are replaced, on a study in a PostgreSQL that goes away; beside it, one process alone.

usage: python tests/benchmarks/bench_attrition.py [--trials 200] [--processes 8] [--kills 20] [--stops 2] [--stop-s 30]
           [--seconds 4] [--seed 1] [--keep FOLDER] [--append]      (--append adds the table to RESULTS.md)

Half of the processes, four at most, have process number 1 (`unshare --pid`), and one other limits. Each has a folder of
its own. They are killed (kill -9) at random moments, and one during each stop of the server; for whichever ends with a
fault a new one is started with an empty folder, as a cluster does. The trainer is the tests' own, whose trainings take
no computing. The one process alone has the same study in its own folder, at the same time. The exit code is 1 where
anything is missing or doubled.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from results import publish

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "tests" / "fakes")]

import optuna  # noqa: E402 - the paths come first
import postgres  # noqa: E402
import study_folder  # noqa: E402
from bench_faults import HEARTBEAT_S, begun_twice, write_study  # noqa: E402
from study_folder import POD, Run, StudyFolder, has_pods, wait_for  # noqa: E402

from autotune.core.attributes import TrialAttributes  # noqa: E402
from autotune.core.records import TrialStatus  # noqa: E402
from autotune.machine.measurement import profile  # noqa: E402
from autotune.store.study_record import read_events  # noqa: E402

MOST_PODS = 4
OTHER_LIMITS = ("--set", "limits.heartbeat_s=2", "--set", "limits.hang_s=300")
PATIENCE_S = 3600.0
LOOK_EVERY_S = 0.2
NO_SERVER = 3
"""Exit code of a process that never reached its database."""


# --- the fleet -------------------------------------------------------------------------------------------


@dataclass
class Place:
    """One of the processes, and whichever replace it.

    Args:
        name: Begins the names of its folders.
        through: What starts it.
        options: Of its command line.
    """

    name: str
    through: Sequence[str] = ()
    options: Sequence[str] = ()
    runs: list[Run] = field(default_factory=list)
    outs: list[str] = field(default_factory=list)

    @property
    def is_at_work(self) -> bool:
        """Whether its present process lives."""
        return self.runs[-1].process.poll() is None


class Cluster:
    """Keeps so many processes at work on a study until it is over.

    Args:
        folder: The study's folder.
        processes: How many.
        pods: How many of them have process number 1.
        rng: Chooses who is killed.
    """

    def __init__(self, folder: StudyFolder, processes: int, pods: int, rng: random.Random) -> None:
        self.killed = 0
        self.refused = 0
        """How often one was started while the server was away, which a start does not wait for."""
        self.faults: list[int] = []
        """Exit codes of others that ended by themselves before the study did."""
        self._folder = folder
        self._rng = rng
        self.places = [Place(f"p{number}", POD if number >= processes - pods else ()) for number in range(processes)]
        first, *others = self.places
        if others:
            others[0].options = OTHER_LIMITS
        self._start(first)
        # It begins the night, with the limits of the study file.
        wait_for(lambda: folder.directory(first.outs[0]).spec.exists())
        for place in others:
            self._start(place)

    @property
    def is_at_work(self) -> bool:
        """Whether any process lives."""
        return any(place.is_at_work for place in self.places)

    @property
    def outs(self) -> list[str]:
        """The folders of all processes there were."""
        return [out for place in self.places for out in place.outs]

    def kill_one(self) -> None:
        """Kill one at random and replace it."""
        place = self._rng.choice([place for place in self.places if place.is_at_work])
        place.runs[-1].kill()
        self.killed += 1
        self._start(place)

    def tend(self) -> None:
        """Replace whatever has ended with a fault."""
        for place in self.places:
            code = place.runs[-1].process.poll()
            if not code:
                continue
            if code == NO_SERVER and not self._folder.directory(place.outs[-1]).spec.exists():
                self.refused += 1
            else:
                self.faults.append(code)
            self._start(place)

    def end(self) -> None:
        """Kill all that lives."""
        for place in self.places:
            if place.runs:
                place.runs[-1].kill()

    def _start(self, place: Place) -> None:
        place.outs.append(f"{place.name}-{len(place.runs)}")
        place.runs.append(self._folder.start(*place.options, out=place.outs[-1], plainly=True, through=place.through))


def wear_down(cluster: Cluster, folder: StudyFolder, server: postgres.Server, args: argparse.Namespace) -> None:
    """Let processes die and the server go away, at random trainings, until the study is over."""
    rng = random.Random(args.seed)
    moments = range(1, args.trials + 1)
    stops = rng.sample(moments, args.stops)
    kills = rng.choices(moments, k=max(0, args.kills - args.stops))
    due = sorted([*((moment, True) for moment in stops), *((moment, False) for moment in kills)])

    while cluster.is_at_work:
        begun = len(folder.started())
        while due and due[0][0] <= begun:
            _, is_stop = due.pop(0)
            if is_stop:
                _stop_for_a_while(cluster, server, args.stop_s, dies=cluster.killed < args.kills)
            else:
                cluster.kill_one()
        cluster.tend()
        time.sleep(LOOK_EVERY_S)


def _stop_for_a_while(cluster: Cluster, server: postgres.Server, seconds: float, dies: bool) -> None:
    server.stop()
    time.sleep(seconds / 2)
    if dies:
        cluster.kill_one()
    time.sleep(seconds / 2)
    server.start()


# --- what became of it -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What became of a study.

    Args:
        rows: What is counted, by its name.
        is_sound: Whether it is complete, and nothing is doubled.
    """

    rows: dict[str, str]
    is_sound: bool


def outcome(folder: StudyFolder, outs: Sequence[str], trials: int) -> Outcome:
    """Count what is stored and what was told.

    Args:
        folder: The study's folder.
        outs: The folders of its processes.
        trials: How many it was to search.
    """
    begun = next(out for out in outs if folder.directory(out).spec.exists())
    record, stored = folder.record(begun), folder.optuna_trials(begun)
    complete = [trial for trial in record.trials if trial.status is TrialStatus.FINISHED]
    settings = {tuple(sorted(trial.params.items())) for trial in complete}
    finals = Counter((run.arm, run.seed, run.stage) for run in record.finals if run.status is TrialStatus.FINISHED)
    verdicts = [line["message"] for out in outs for line in read_events(folder.directory(out)) if _is_verdict(line)]
    full_runs = sum(_finished(group) for name, group in stored.items() if ".full-" in name)
    brackets = record.attributes.promotion.brackets if record.attributes.promotion else ()

    doubled = {
        "numbers doubled": sum(len(group) - len({each.number for each in group}) for group in stored.values()),
        "trials queued again twice": _doubled(trial.retry_of for trial in record.trials),
        "finals finished twice": sum(finals.values()) - len(finals),
        "trainings still waiting or running": sum(
            not each.state.is_finished() for group in stored.values() for each in group
        ),
    }
    is_sound = (
        len(complete) == len(settings) == trials
        and not any(doubled.values())
        and len(set(verdicts)) == len(verdicts) == 1
        and full_runs == 1
    )
    rows = {
        "trials complete": f"{len(complete)} of {trials}",
        "settings all different": "yes" if len(settings) == len(complete) else f"only {len(settings)}",
        **{name: str(count) for name, count in doubled.items()},
        "runs on fresh seeds finished": str(len(finals)),
        "brackets": f"{len(brackets)}, of {sum(len(bracket.losses) for bracket in brackets)} trainings",
        "verdicts told": f"{len(verdicts)} ({record.verdict.word if record.verdict else 'none'})",
        "full runs finished": str(full_runs),
        "trainings begun twice": str(begun_twice(folder)),
    }
    return Outcome(rows, is_sound)


def _is_verdict(line: object) -> bool:
    return isinstance(line, dict) and line["kind"] == "verdict"


def _finished(trials: Sequence[optuna.trial.FrozenTrial]) -> int:
    results = [TrialAttributes(trial).result for trial in trials]
    return sum(result is not None and result.status is TrialStatus.FINISHED for result in results)


def _doubled(numbers: Iterator[int | None]) -> int:
    counts = Counter(number for number in numbers if number is not None)
    return sum(count - 1 for count in counts.values())


def fleet_rows(cluster: Cluster, folder: StudyFolder) -> dict[str, str]:
    """Return what is counted of processes alone."""
    codes = Counter(place.runs[-1].end() for place in cluster.places)
    events = [line["message"] for out in cluster.outs for line in read_events(folder.directory(out))]
    texts = [run.text for place in cluster.places for run in place.runs]
    return {
        "exit codes": ", ".join(f"{count} x {code}" for code, count in sorted(codes.items())),
        "processes killed": str(cluster.killed),
        "starts that met no server": str(cluster.refused),
        "exit codes of other faults": ", ".join(map(str, cluster.faults)) or "none",
        "took over as coordinator": str(sum("coordinates the study now" in message for message in events)),
        "tracebacks": str(sum("Traceback" in text for text in texts)),
        "processes left": str(len(folder.living())),
    }


def main() -> None:
    """Run both and print their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--stops", type=int, default=2, help="how often the server goes away")
    parser.add_argument("--stop-s", type=float, default=30.0, help="for how long")
    parser.add_argument("--seconds", type=float, default=4.0, help="what a trial takes")
    parser.add_argument("--seed", type=int, default=1, help="of the moments at which anything happens")
    parser.add_argument("--keep", type=Path, help="leave both studies, and what processes printed, in this folder")
    parser.add_argument("--append", action="store_true", help="add the table to RESULTS.md")
    args = parser.parse_args()
    study_folder.PATIENCE_S = PATIENCE_S
    # Whatever ends it, no process may be left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))

    with tempfile.TemporaryDirectory(prefix="attrition-") as root, contextlib.closing(postgres.servers()) as servers:
        lines, is_sound = run_both(args.keep or Path(root), next(servers), args)
    publish(lines, append=args.append)
    sys.exit(0 if is_sound else 1)


def run_both(root: Path, server: postgres.Server, args: argparse.Namespace) -> tuple[list[str], bool]:
    """Run the study by a fleet and by one process, and return the lines to be published and whether both are sound."""
    hardware = profile(quick=True, device="cpu").to_json()
    alone, shared = StudyFolder(root / "alone", hardware), StudyFolder(root / "fleet", hardware)
    shared.url = server.url
    for folder in (alone, shared):
        write_study(folder, args.trials, args.seconds, enqueue=[])

    pods = min(MOST_PODS, args.processes // 2) if has_pods() else 0
    began = time.monotonic()
    single = alone.start(plainly=True)
    cluster = Cluster(shared, args.processes, pods, random.Random(args.seed))
    try:
        wear_down(cluster, shared, server, args)
        seconds = time.monotonic() - began
        found = outcome(shared, cluster.outs, args.trials)
        rows = {**found.rows, **fleet_rows(cluster, shared), "seconds": f"{seconds:.0f}"}
        code = single.end()
        of_one = outcome(alone, ["runs"], args.trials)
        alone_rows = {**of_one.rows, "exit codes": f"1 x {code}", "seconds": f"{time.monotonic() - began:.0f}"}
    finally:
        cluster.end()
        single.kill()

    command = " ".join(["tests/benchmarks/bench_attrition.py", *(each for each in sys.argv[1:] if each != "--append")])
    numbered = f"{pods} of them with process number 1"
    if not has_pods():
        numbered = "none of them with process number 1, which this machine forbids (unshare --pid)"
    lines = [
        f"## {datetime.now(UTC):%Y-%m-%d}: a fleet that is worn down, and one process alone",
        "",
        f"`python {command}`, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, optuna "
        f"{optuna.__version__}; {args.processes} processes, {numbered}, and one with other "
        f"limits; the server away {args.stops} times for {args.stop_s:g} s; {args.seconds:g} s a trial, heartbeats "
        f"every {HEARTBEAT_S} s.",
        "",
        "| | the fleet | one process alone |",
        "|---|---|---|",
        *(f"| {name} | {cell} | {alone_rows.get(name, '-')} |" for name, cell in rows.items()),
    ]
    return lines, found.is_sound and of_one.is_sound and code == 0 and not cluster.faults


if __name__ == "__main__":
    main()
