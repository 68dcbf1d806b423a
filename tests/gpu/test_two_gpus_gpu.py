"""Two GPUs of one host train what one does, faster: torchrun, NCCL, bf16, recorded steps. With -s it says how fast."""

import json
import os
import subprocess
import sys

import pytest
import tomli_w
import torch

from model.training import checkpoint

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

# 48 sequences of 512 tokens a batch, 100 batches of the seed's model.
BUDGET_TOKENS = 100 * 48 * 512


def started(tmp_path, gpus):
    folder = tmp_path / f"gpus-{gpus}"
    folder.mkdir()
    config = {
        "optim": {"grad_accum_steps": 2},
        "data": {"source": "sotu", "cache_dir": str(tmp_path / "corpus"), "eval_tokens": 65536, "num_evals": 10},
        # One checkpoint, after the last point but one: every number of a point is in it.
        "output": {"sample_tokens": 0, "checkpoint_every_tokens": BUDGET_TOKENS * 19 // 20},
    }
    path = folder / "best_config.toml"
    path.write_text(tomli_w.dumps({"trainer": "model.train:train", "tokens": BUDGET_TOKENS, "config": config}))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(gpus)] if gpus > 1 else []
    command = [sys.executable, *launcher, "-m", "autotune", "train", str(path), "--folder", str(folder / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True), folder / "out"


def trained(tmp_path, gpus):
    """Return the losses of all points, and the tokens per second of the later ones."""
    done, out = started(tmp_path, gpus)
    assert done.returncode == 0, done.stdout + done.stderr
    points = checkpoint.read(max((out / "checkpoints").iterdir())).state["points"]
    last = json.loads((out / "export" / "results.json").read_text())["evaluation"]["loss"]
    speed = sorted(point["tokens_per_s"] for point in points[2:])
    return [*(point["val_loss"] for point in points), last], speed[len(speed) // 2]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_train_what_one_does(tmp_path):
    """bf16 sums in another order and the losses drift apart as they do between seeds, by less than a hundredth."""
    (one, one_speed), (two, two_speed) = (trained(tmp_path, gpus) for gpus in (1, 2))
    print(f"\ntokens/s: one {one_speed:,.0f}, two {two_speed:,.0f}, ratio {two_speed / one_speed:.2f}")
    print(f"losses: one {one}\n        two {two}")
    assert len(one) == len(two) == 10
    assert two == pytest.approx(one, abs=0.02)


def test_more_processes_than_gpus_are_refused(tmp_path):
    there = torch.cuda.device_count()
    done, out = started(tmp_path, there + 1)
    assert done.returncode != 0
    assert f"{there + 1} processes for {there} visible GPUs; use --nproc-per-node {there}" in done.stderr
    assert not out.exists()
