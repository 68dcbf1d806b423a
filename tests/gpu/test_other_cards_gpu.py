"""Code that is generated for older cards, run on the card at hand: each launcher, and trainings on every path."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.config import TrainConfig
from model.ops import graphs, grouped
from model.ops.grouped import Way
from model.training.learner import Learner

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

FOLDER = Path(__file__).parent
CUDA = torch.device("cuda", 0)
VOCAB_SIZE = 1000
MODEL = {
    "num_layers": 2,
    "d_model": 128,
    "num_heads": 2,
    "num_kv_heads": 2,
    "d_ff": 96,
    "num_experts": 6,
    "seq_len": 64,
}


@pytest.mark.parametrize("capability", [75, 86])
def test_launchers_agree_on_code_for_an_older_card(capability):
    major, minor = torch.cuda.get_device_capability()
    if 10 * major + minor <= capability:
        pytest.skip("needs a newer card")

    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER / "test_launchers_gpu.py")]
    environment = os.environ | {"AUTOTUNE_AS_ON": str(capability)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_training_is_the_same_with_our_products_and_with_torchs(monkeypatch, dtype):
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("needs tensor cores that Triton knows")

    losses = {}
    for way in (Way.OWN, Way.LOOP):
        for module in (grouped, graphs):
            monkeypatch.setattr(module, "way", lambda device, dtype, chosen=way: chosen)
        losses[way] = _losses(dtype)
    assert losses[Way.OWN] == pytest.approx(losses[Way.LOOP], rel=2e-3)
    assert losses[Way.OWN][-1] < losses[Way.OWN][0] - 0.2


def _losses(dtype: torch.dtype) -> list[float]:
    """Train on the same tokens again and again; with our products the steps are recorded, with torch's launched."""
    config = TrainConfig.model_validate({"model": MODEL, "system": {"micro_batch_size": 8}})
    learner = Learner(config, VOCAB_SIZE, CUDA, dtype)
    tokens = torch.randint(0, VOCAB_SIZE, (8, 65), generator=torch.Generator().manual_seed(0)).to(CUDA, torch.int32)

    losses = []
    for _ in range(8):
        learner.accumulate(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
        losses.append(learner.meters["loss"].item())
        learner.clear_meters()
        learner.update(1.0)
    return losses
