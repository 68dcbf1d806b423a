"""Trials a minute of many processes that share one study in PostgreSQL, beside those of one process.

usage: python tests/benchmarks/bench_fleet.py [--processes 1 16 32] [--samplers random tpe gp] [--finished 100 5000]
           [--seconds 12] [--window 40] [--append]      (--append adds the result to RESULTS.md)

The trainer sleeps, so that on one machine only the engines and the server compute. Of each sampler and number of
finished trials there is one study. Processes are added to it, and what is counted begins when each of them has begun
its first trial of the search. The first process reaches the server through a relay that counts bytes. The report is
left out, which each process writes for itself.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import os
import platform
import signal
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import psycopg
from results import publish

HERE = Path(__file__).parent
TESTS = HERE.parent
sys.path[:0] = [str(TESTS / "support"), str(TESTS / "fakes")]

import postgres  # noqa: E402 - the paths come first
import prepared  # noqa: E402
from fleet_study import EVALUATIONS, begin_study, write_study  # noqa: E402

from autotune.machine.measurement import machine_name, profile  # noqa: E402
from autotune.store.run_directory import RunDirectory  # noqa: E402
from autotune.study.study_file import load  # noqa: E402

MOST_ON_GP = 16
"""Processes that the default sampler is tried with at most."""
PATIENCE_S = 240.0
COLUMNS = (
    "sampler",
    "finished",
    "processes",
    "trials a minute",
    "of N-fold",
    "lock a trial, ms (computing)",
    "a lock: mean, largest, ms",
    "wait for it: mean, largest, ms",
    "engines, CPU ms a trial",
    "server, CPU ms a trial",
    "transactions a trial",
    "kB a trial, of the first process",
    "connections a process",
)


# --- the bytes -------------------------------------------------------------------------------------------


class Relay:
    """A socket in front of the server's, which counts what goes through.

    Args:
        folder: Where its socket is to be.
        server: The server's socket.
    """

    def __init__(self, folder: Path, server: Path) -> None:
        self.num_bytes = 0
        self.connections = 0
        """How many were made."""
        self._server = server
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(folder / server.name))
        self._socket.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._socket.accept()
            self.connections += 1
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._server))
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.num_bytes += len(data)
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


# --- the fleet -------------------------------------------------------------------------------------------


@dataclass
class Moment:
    """What is counted at one moment.

    Args:
        at: Seconds since 1970.
        commits: Transactions of the database.
        num_bytes: Bytes of the first process.
        engine_s: The processor's seconds of all engines and workers.
        server_s: Those of the server.
        ended: Trials of the first process that have ended.
    """

    at: float
    commits: int
    num_bytes: int
    engine_s: float
    server_s: float
    ended: int


class Fleet:
    """Processes that work on one study.

    Args:
        root: An empty folder.
        url: An empty database of the server.
        server: The process that commands are forked from.
        sampler: The study's sampler.
        finished: Finished trials that it begins with.
        seconds: What a trial takes.
    """

    def __init__(
        self, root: Path, url: str, server: prepared.Server, sampler: str, finished: int, seconds: float
    ) -> None:
        self.root = root
        self._server = server
        self._peers: list[prepared.Command] = []
        self._hardware = json.dumps(asdict(hardware()))
        self._connection = psycopg.connect(url, autocommit=True)
        self._has_backends: dict[str, float] = {}

        parts = psycopg.conninfo.conninfo_to_dict(url)
        relay_folder = root / "relay"
        relay_folder.mkdir()
        self.relay = Relay(relay_folder, Path(str(parts["host"])) / f".s.PGSQL.{parts.get('port', 5432)}")
        relayed = url.replace(str(parts["host"]), str(relay_folder))
        for name, storage in (("first", relayed), ("others", url)):
            (root / name).mkdir()
            write_study(root / name / "fleet.toml", storage, sampler, seconds)
        begin_study(load(root / "others" / "fleet.toml"), url, finished)

    def grow_to(self, processes: int) -> None:
        """Start as many processes as are missing, and wait until each trains a trial of the search."""
        first = len(self._peers)
        for number in range(first, processes):
            self._start(number)
            if number == 0:  # it plans the night and trains the default settings for all
                self._wait_until(lambda: self._begun(0) > 1)
        self._wait_until(lambda: all(self._begun(number) for number in range(first, processes)))

    def _start(self, number: int) -> None:
        run = self.root / f"out-{number}" / "fleet"
        run.mkdir(parents=True)
        RunDirectory(run).hardware_of(machine_name("cpu")).write_text(self._hardware, encoding="utf-8")
        environment = {**_environment(), "FLEET_LOCKS": str(self.root / f"locks-{number}")}
        file = self.root / ("others" if number else "first") / "fleet.toml"
        arguments = ["run", str(file), "--out", f"out-{number}", "--device", "cpu"]
        with (self.root / f"output-{number}").open("wb") as output:
            self._peers.append(self._server.start(arguments, self.root, environment, output.fileno()))

    def _begun(self, number: int) -> int:
        folder = self.root / f"out-{number}" / "fleet" / "trials"
        return len(list(folder.iterdir())) if folder.exists() else 0

    def _wait_until(self, condition: Any) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            ended = [number for number, peer in enumerate(self._peers) if peer.poll() is not None]
            if ended or time.monotonic() > end:
                text = (self.root / f"output-{ended[0] if ended else 0}").read_text(errors="replace")
                raise RuntimeError(f"processes {ended} ended, or nothing began in time:\n{text[-2_000:]}")
            time.sleep(0.2)

    def moment(self) -> Moment:
        """Count."""
        # What a process has committed is told a second later at the latest.
        row = self._connection.execute(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()
        assert row is not None
        engine_s = sum(map(_tree_s, (peer.pid for peer in self._peers)))
        results = self.root / "out-0" / "fleet" / "trials"
        ended = len(list(results.glob("*/result.json")))
        return Moment(time.time(), row[0], self.relay.num_bytes, engine_s, self._server_s(), ended)

    def _server_s(self) -> float:
        """Return the processor's seconds of the server's processes for this database."""
        with psycopg.connect(self._connection.info.dsn, autocommit=True) as connection:
            pids = connection.execute("SELECT pid FROM pg_stat_activity WHERE datname = current_database()").fetchall()
        for (pid,) in pids:
            with contextlib.suppress(psutil.Error):
                self._has_backends[pid] = sum(psutil.Process(pid).cpu_times()[:2])
        return sum(self._has_backends.values())

    def connections(self) -> int:
        """Return how many connections the processes have at present."""
        row = self._connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND backend_type = 'client backend'"
        ).fetchone()
        assert row is not None
        return int(row[0])

    def ends(self, since: float, until: float) -> list[float]:
        """Return when trials ended between two moments, seconds since 1970, in order."""
        rows = self._connection.execute(
            "SELECT extract(epoch FROM datetime_complete::timestamptz) FROM trials WHERE state = 'COMPLETE'"
        ).fetchall()
        return sorted(float(at) for (at,) in rows if since <= float(at) <= until)

    def locks(self, since: float, until: float) -> list[tuple[float, float, float]]:
        """Return the seconds waited for each lock between two moments, those that it was held, and the processor's."""
        found = []
        for file in self.root.glob("locks-*"):
            for line in file.read_text().splitlines():
                at, *seconds = map(float, line.split())
                if len(seconds) == 3 and since <= at <= until:
                    found.append((seconds[0], seconds[1], seconds[2]))
        return found

    def close(self) -> None:
        """Kill all processes."""
        for peer in self._peers:
            peer.kill()
        for peer in self._peers:
            peer.wait(PATIENCE_S)
        self._connection.close()


@functools.cache
def hardware() -> Any:
    """Return a quick profile of this machine's CPU, which each process would take for itself."""
    return profile(quick=True, device="cpu")


def _tree_s(pid: int) -> float:
    """Return the processor's seconds of a process and its children."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return sum(sum(each.cpu_times()[:2]) for each in [process, *process.children(recursive=True)])
    return 0.0


# --- what is told ----------------------------------------------------------------------------------------


def measure(fleet: Fleet, processes: int, window_s: float) -> tuple[float, str]:
    """Return the trials a minute of a fleet, and the other cells of its row."""
    before = fleet.moment()
    time.sleep(window_s)
    after = fleet.moment()

    ends = fleet.ends(before.at, after.at)
    per_minute = 60 * (len(ends) - 1) / (ends[-1] - ends[0])
    locks = fleet.locks(before.at, after.at)
    waited, held, computed = zip(*locks, strict=True)
    trials = len(ends)
    own = max(1, after.ended - before.ended)
    cells = [
        f"{1000 * sum(held) / trials:.0f} ({1000 * sum(computed) / trials:.0f})",
        f"{1000 * statistics.fmean(held):.0f}, {1000 * max(held):.0f}",
        f"{1000 * statistics.fmean(waited):.0f}, {1000 * max(waited):.0f}",
        f"{1000 * (after.engine_s - before.engine_s) / trials:.0f}",
        f"{1000 * (after.server_s - before.server_s) / trials:.0f}",
        f"{(after.commits - before.commits) / trials:.0f}",
        f"{(after.num_bytes - before.num_bytes) / own / 1e3:,.0f}",
        f"{fleet.connections() / processes:.1f}",
    ]
    return per_minute, " | ".join(cells)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 16, 32], help="how many, ascending, 1 first")
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe", "gp"])
    parser.add_argument("--finished", type=int, nargs="+", default=[100, 5_000], help="trials there already")
    parser.add_argument("--seconds", type=float, default=12.0, help="what a trial takes")
    parser.add_argument("--window", type=float, default=40.0, help="seconds that are counted")
    parser.add_argument("--append", action="store_true", help="add the result to RESULTS.md")
    args = parser.parse_args()

    arguments = " ".join(sys.argv[1:]).replace(" --append", "").replace("--append", "")
    lines = [f"## {datetime.now(UTC):%Y-%m-%d} a fleet on one PostgreSQL", ""]
    lines += [
        f"{hardware().cpu_name}, {hardware().cpu_count} cores, Python {platform.python_version()}; "
        f'`make bench BENCH=fleet ARGS="{arguments}"`. A trial sleeps {args.seconds:g} s and is evaluated '
        f"{EVALUATIONS} times; {args.window:g} s are counted.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
    ]
    # Whatever ends it, no process may be left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder, _served() as url:
        server = prepared.Server(HERE / "fleet_peer.py", _environment())
        for number, (sampler, finished) in enumerate(itertools.product(args.samplers, args.finished)):
            root = Path(folder) / str(number)
            root.mkdir()
            for row in _study_rows(root, _new_database(url, number), server, sampler, finished, args):
                print(row, file=sys.stderr, flush=True)
                lines.append(row)
        server.close()
    publish(lines, append=args.append)


def _environment() -> dict[str, str]:
    paths = [str(TESTS.parent), str(TESTS / "support"), str(TESTS / "fakes"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}


@contextlib.contextmanager
def _served() -> Iterator[str]:
    server = postgres.served()
    try:
        yield next(server)
    finally:
        next(server, None)


def _new_database(url: str, number: int) -> str:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE fleet_{number}")
    return url.replace("/postgres?", f"/fleet_{number}?")


def _study_rows(
    root: Path, url: str, server: prepared.Server, sampler: str, finished: int, args: argparse.Namespace
) -> Iterator[str]:
    counts: Sequence[int] = args.processes
    if sampler == "gp":
        counts = [count for count in counts if count <= MOST_ON_GP]

    fleet = Fleet(root, url, server, sampler, finished, args.seconds)
    alone = 0.0
    try:
        for count in counts:
            fleet.grow_to(count)
            per_minute, cells = measure(fleet, count, args.window)
            alone = alone or per_minute / count
            share = per_minute / count / alone
            yield f"| {sampler} | {finished:,} | {count} | {per_minute:.1f} | {share:.2f} | {cells} |"
    finally:
        fleet.close()


if __name__ == "__main__":
    main()
