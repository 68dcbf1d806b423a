"""Make the studies of `runs.tar.xz` with an earlier version of the program; the README beside this file says which.

Each is left in a state of its own: parked in the search, killed in it, parked in its full run, finished. All paths in
them are relative, so that they may be unpacked anywhere.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import tomli_w

HERE = Path(__file__).parent
FAKES = HERE.parents[1] / "fakes"
PATIENCE_S = 120.0
PARKED = 130

USUAL: dict[str, Any] = {
    "trainer": "fake_trainer:train",
    "budget": {"tokens": 100_000, "trials": 8, "ends_early": False},
    "space": {"lr": {"low": 0.0001, "high": 1.0, "log": True}},
    "sampler": {"name": "tpe"},
    "pruner": {"name": "median", "n_startup_trials": 2, "warmup_frac": 0.3, "audit_frac": 0},
    "finals": {"prove_seeds": 2, "max_seeds": 2},
    "limits": {"min_free_bytes": 0},
}
# The fake trainer waits at a gate in its third evaluation until the file `open` lies in its log folder.
GATE = {"fault": "gate", "fault_budget": 50_000}
STUDIES: dict[str, dict[str, Any]] = {
    # Trials 0 to 2 finish, 3 is pruned, and 4 is parked at its third evaluation.
    "parked": {
        "base": {"lr": 0.001, "fault_above": 0.0105, **GATE},
        "enqueue": [{"lr": 0.01}, {"lr": 0.005}, {"lr": 0.0001}, {"lr": 0.012}],
    },
    # Trial 3 is killed at its third evaluation; with the sampler and pruner that a study has which names none.
    "killed": {
        "trainer": "counting_fake_trainer:train",
        "objective": "loss_at_equal_seconds",
        "base": {"lr": 0.01, "claimed_per_s": 100_000.0, "expert_gain": 0.3, "fault_above": 0.0105, **GATE},
        "budget": {"tokens": 100_000, "trials": 7, "ends_early": False},
        "space": {"lr": {"low": 0.001, "high": 0.1, "log": True}, "experts": {"choices": [1, 2]}},
        "enqueue": [{"lr": 0.009, "experts": 2}, {"lr": 0.005, "experts": 1}, {"lr": 0.012, "experts": 2}],
        "sampler": {"name": "gp"},
        "pruner": {"name": "median"},
    },
    # The search and the finals are over, and the full run is parked at half of its tokens.
    "halfway": {
        "trainer": "resuming_fake_trainer:train",
        "base": {"lr": 0.001, "evaluations": 6, "fault": "gate", "fault_budget": 400_000},
        "budget": {"tokens": 100_000, "trials": 4},
        "enqueue": [{"lr": 0.01}],
        "promote": {"tokens": 400_000, "automatic": True},
    },
    # The study is over, and two of its winner's changes gave nothing.
    "finished": {
        "base": {"lr": 0.001, "sigma": 0.001},
        "budget": {"tokens": 100_000, "trials": 3},
        "space": {
            "gain": {"choices": [0.0, 0.5]},
            "layers": {"choices": [2, 4]},
            "heads": {"choices": [2, 4]},
            "lr": {"low": 0.001, "high": 0.1, "log": True},
        },
        "enqueue": [{"gain": 0.5, "layers": 4, "heads": 4, "lr": 0.01}],
        "finals": {"finalists": 1, "prove_seeds": 3, "max_seeds": 3, "attribute_seeds": 2},
    },
}
# Left out, since the program makes them anew: pages, the copy of a database, and files that belong to a process.
LEFT_OUT = (".html", ".tmp", "-shm", "study.backup.db")


class Maker:
    """The studies in a folder, and the program of a checkout that runs them.

    Args:
        checkout: Root of the checkout.
        folder: Where the study files, their runs and the trainer's logs go.
    """

    def __init__(self, checkout: Path, folder: Path) -> None:
        self.checkout = checkout
        self.folder = folder
        path = [checkout, FAKES, os.environ.get("PYTHONPATH", "")]
        self._environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}

    def write(self, name: str) -> None:
        """Write a study file and make the folder of its trainer's log."""
        tables = {"name": name, **USUAL, **STUDIES[name]}
        tables["base"] = {**tables["base"], "log_dir": f"log/{name}"}
        (self.folder / "log" / name).mkdir(parents=True)
        (self.folder / f"{name}.toml").write_text(tomli_w.dumps(tables))

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command of the program, with further options of `Popen`."""
        command = [sys.executable, "-m", "autotune", *arguments]
        return subprocess.Popen(command, cwd=self.folder, env=self._environment, start_new_session=True, **options)

    def run_to_the_gate(self, name: str) -> subprocess.Popen[bytes]:
        """Start a study and wait until one of its trainings stands at the gate."""
        self.write(name)
        run = self.start("run", f"{name}.toml", "--device", "cpu")
        end = time.monotonic() + PATIENCE_S
        while not (self.folder / "log" / name / "at-gate.txt").exists():
            if run.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{name} did not come to its gate")
            time.sleep(0.05)
        return run

    def open_gate(self, name: str) -> None:
        """Let all trainings of a study through, now and later."""
        (self.folder / "log" / name / "open").touch()

    def park(self, name: str) -> None:
        """Run a study to its gate and park it there, at the evaluation that the gate holds back."""
        run = self.run_to_the_gate(name)
        expect(self.start("stop", name), 0)
        self.open_gate(name)
        expect(run, PARKED)

    def kill(self, name: str) -> None:
        """Run a study to its gate and kill all of its processes there."""
        run = self.run_to_the_gate(name)
        process = psutil.Process(run.pid)
        for each in (process, *process.children(recursive=True)):
            each.send_signal(signal.SIGKILL)
        expect(run, -signal.SIGKILL)
        self.open_gate(name)

    def finish(self, name: str) -> None:
        """Run a study to its end."""
        self.write(name)
        expect(self.start("run", f"{name}.toml", "--device", "cpu"), 0)

    def keep_what_is_said(self, copy: Path) -> None:
        """Keep what the program says of each study, in `said/`.

        Args:
            copy: Folder that takes a copy of everything to read from, since reading a killed study tidies it up.
        """
        shutil.copytree(self.folder, copy)
        said = self.folder / "said"
        said.mkdir()
        reader = Maker(self.checkout, copy)
        for name in STUDIES:
            status = reader.start("status", name, "--json", stdout=subprocess.PIPE)
            text, _ = status.communicate(timeout=PATIENCE_S)
            (said / f"{name}.status.json").write_bytes(text)
            expect(reader.start("report", name), 0)
            shutil.copy(copy / "runs" / name / "report" / "report.json", said / f"{name}.report.json")

    def pack(self, archive: Path) -> None:
        """Pack everything but what is left out, in the order of paths and without the names of users."""
        with tarfile.open(archive, "w:xz", preset=9) as packed:
            for path in sorted(self.folder.rglob("*")):
                if path.is_file() and not path.name.endswith(LEFT_OUT):
                    packed.add(path, str(path.relative_to(self.folder)), filter=_without_owner)


def _without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def expect(process: subprocess.Popen[bytes], code: int) -> None:
    """Wait for a process to end, and end this one if its exit code is not the expected one."""
    if process.wait(PATIENCE_S) != code:
        raise SystemExit(f"{process.args} ended with {process.returncode} instead of {code}")


def main() -> None:
    """Make the archive with the checkout that is named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path, help="root of a checkout of the earlier version")
    parser.add_argument("--archive", type=Path, default=HERE / "runs.tar.xz")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "made"
        folder.mkdir()
        maker = Maker(arguments.checkout.absolute(), folder)
        maker.park("parked")
        maker.park("halfway")
        maker.finish("finished")
        # This one comes last: a report reads the other studies too, and SQLite then tidies up what a kill leaves.
        maker.kill("killed")
        maker.keep_what_is_said(Path(temporary) / "copy")
        maker.pack(arguments.archive)


if __name__ == "__main__":
    main()
