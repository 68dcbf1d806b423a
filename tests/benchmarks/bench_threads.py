"""Seconds of a CPU training, idle and beside busy processes, by how its threads wait for each other.

usage: python tests/benchmarks/bench_threads.py [--cores 2] [--busy 2] [--rounds 3] [--tokens 81920]

Each training is the baseline of studies/quickstart.toml in a process of its own. The ways of waiting take turns, so
that whatever else the machine does meets all of them alike.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from autotune.machine.host import THREAD_WAITING

WAYS: Mapping[str, Mapping[str, str]] = {
    "the library's own": {},
    "spin 1,000": {"GOMP_SPINCOUNT": "1000"},
    "spin 10,000": {"GOMP_SPINCOUNT": "10000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "ours": THREAD_WAITING,
}
"""Environment variables by the name of a way of waiting."""
TRAINING = """
import sys, time, tomllib
import torch
from model.config import TrainConfig
from model.train import train
torch.set_num_threads(int(sys.argv[2]))
config = TrainConfig.model_validate(tomllib.load(open("studies/quickstart.toml", "rb"))["base"])
train(config, 8_192, lambda point: True)
began = time.perf_counter()
train(config, int(sys.argv[1]), lambda point: True)
print(time.perf_counter() - began)
"""


def seconds_of(way: Mapping[str, str], tokens: int, threads: int) -> float:
    """Return the seconds of one training in a process of its own, its first compilation and reading left out."""
    set_here = {*THREAD_WAITING, "OMP_NUM_THREADS", "OMP_WAIT_POLICY"}
    kept = {key: value for key, value in os.environ.items() if key not in set_here}
    kept["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, "-c", TRAINING, str(tokens), str(threads)]
    done = subprocess.run(command, env={**kept, **way}, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


@contextmanager
def beside(busy: int) -> Iterator[None]:
    """Keep this many other processes busy meanwhile."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    time.sleep(0.5)
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> None:
    """Measure and print one line for each way of waiting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cores", type=int, default=2, help="cores that everything runs on")
    parser.add_argument("--busy", type=int, default=2, help="other processes beside the training")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=81_920)
    args = parser.parse_args()

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    seconds: dict[tuple[str, int], list[float]] = defaultdict(list)
    for _ in range(args.rounds):
        for busy in (0, args.busy):
            for name, way in WAYS.items():
                with beside(busy):
                    seconds[name, busy].append(seconds_of(way, args.tokens, args.cores))

    base = statistics.median(seconds[next(iter(WAYS)), 0])
    for name in WAYS:
        idle, loaded = (statistics.median(seconds[name, busy]) for busy in (0, args.busy))
        print(
            f"{name:>18}: {idle:6.2f} s idle ({idle / base:.2f}), "
            f"{loaded:6.2f} s beside {args.busy} busy processes ({loaded / base:.2f})"
        )


if __name__ == "__main__":
    main()
