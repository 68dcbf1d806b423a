"""Two GPUs of one host train what one does, faster: torchrun, NCCL, bf16, recorded steps."""

import json
import os
import subprocess
import sys

import pytest
import tomli_w
import torch

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")

# 48 sequences of 512 tokens a batch, 100 batches of the seed's model.
BUDGET_TOKENS = 100 * 48 * 512


def trained(tmp_path, corpus, gpus):
    folder = tmp_path / f"gpus-{gpus}"
    folder.mkdir()
    config = {
        "optim": {"grad_accum_steps": 2},
        "data": {"source": "sotu", "cache_dir": str(corpus), "eval_tokens": 65536, "num_evals": 4},
        "output": {"sample_tokens": 0},
    }
    path = folder / "best_config.toml"
    path.write_text(tomli_w.dumps({"trainer": "model.train:train", "tokens": BUDGET_TOKENS, "config": config}))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(gpus)] if gpus > 1 else []
    command = [sys.executable, *launcher, "-m", "autotune", "train", str(path), "--folder", str(folder / "out")]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "out" / "export" / "results.json").read_text())


def test_two_gpus_train_what_one_does(tmp_path):
    """bf16 sums in another order and the losses drift apart as they do between seeds, by less than a hundredth."""
    one, two = (trained(tmp_path, tmp_path / "corpus", gpus) for gpus in (1, 2))
    print(json.dumps({"one": one, "two": two}, indent=2, default=str))
    assert two["evaluation"]["loss"] == pytest.approx(one["evaluation"]["loss"], abs=0.02)
