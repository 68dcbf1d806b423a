"""train() from end to end: real training on real text, small."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from short_training import TIMES, run, small_config, without_times

from model.data.corpus import load
from model.inference.export import load_model
from model.loss import count_losses
from model.training import learner_cache
from model.training.evaluate import evaluate
from model.training.learner import Learner

pytestmark = pytest.mark.usefixtures("one_thread")


def test_loss_falls_well_below_the_unigram_entropy(speeches):
    config = small_config(speeches, optim={"adamw_lr": 0.01}, system={"micro_batch_size": 16})
    points, facts = run(config, 80_000)
    counts = np.bincount(load(config.data).val_ids)
    frequencies = counts[counts > 0] / counts.sum()
    unigram_entropy = -(frequencies * np.log(frequencies)).sum()
    losses = [point["val_loss"] for point in points]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.85 * unigram_entropy
    assert points[-1]["val_accuracy"] > 0.2
    assert points[-1]["train_loss"] == pytest.approx(losses[-1], rel=0.1)
    assert facts["stopped"] is False


def test_all_trials_report_on_one_grid_of_tokens(speeches):
    grids = []
    for micro_batch_size, accum, seq_len in ((4, 1, 32), (4, 3, 32), (3, 2, 32), (9, 1, 16)):
        config = small_config(
            speeches,
            model={"seq_len": seq_len},
            optim={"grad_accum_steps": accum},
            data={"num_evals": 7},
            system={"micro_batch_size": micro_batch_size},
        )
        points, _ = run(config, 2500)
        grids.append([point["tokens_seen"] for point in points])
    assert grids == [[2500 * i // 7 for i in range(1, 8)]] * 4


def test_every_learning_rate_of_a_run(speeches, monkeypatch):
    updates = []
    update = Learner.update

    def recorded(self, lr_factor):
        updates.append((self.pending, round(lr_factor, 6)))
        update(self, lr_factor)

    monkeypatch.setattr(Learner, "update", recorded)
    optim = {"grad_accum_steps": 3, "warmup_frac": 0.4, "decay_frac": 0.5, "final_lr_frac": 0.1}
    points, facts = run(small_config(speeches, optim=optim), 10 * 128)
    # Optimizer steps end at 0.3, 0.6, 0.9 and 1.0 of the budget; decay begins at 0.5.
    assert updates == [(3, 0.75), (3, 0.82), (3, 0.28), (1, 0.1)]
    assert points[-1]["muon_lr"] == pytest.approx(0.01 * 0.1)
    assert facts["optimizer_steps"] == 4
    assert facts["micro_steps"] == 10


def test_a_budget_that_is_no_multiple_of_a_micro_step_still_ends_at_the_floor(speeches):
    points, facts = run(small_config(speeches, optim={"final_lr_frac": 0.25}), 1000)
    assert facts["micro_steps"] == 8  # 1024 tokens
    assert points[-1]["muon_lr"] == pytest.approx(0.01 * 0.25)
    assert points[-1]["tokens_seen"] == 1000


def test_accumulation_equals_a_larger_micro_batch(speeches):
    """Same tokens per optimizer step, same data order, same schedule: the same run but for rounding."""
    data = {"num_evals": 3}  # points after 1024, 2048 and 3072 tokens, between optimizer steps of 512
    split, _ = run(small_config(speeches, data=data, optim={"grad_accum_steps": 4}), 3072)
    whole, _ = run(small_config(speeches, data=data, system={"micro_batch_size": 16}), 3072)
    for left, right in zip(split, whole, strict=True):
        assert left["val_loss"] == pytest.approx(right["val_loss"], rel=1e-4)


def test_merged_and_split_passes_are_the_same_run(speeches):
    """The limit on a pass is a matter of memory and speed: same batches, same schedule, same points."""
    data, optim = {"num_evals": 3}, {"grad_accum_steps": 3}
    runs = [
        run(small_config(speeches, data=data, optim=optim, system={"max_pass_sequences": limit}), 3050)
        for limit in (0, 2, 12)
    ]
    (as_they_are, facts), *others = runs
    assert facts["pass_sequences"] == 4
    for (points, other), size in zip(others, (2, 12), strict=True):
        assert other["pass_sequences"] == size
        assert (other["optimizer_steps"], other["micro_steps"]) == (facts["optimizer_steps"], facts["micro_steps"])
        assert [point["tokens_seen"] for point in points] == [point["tokens_seen"] for point in as_they_are]
        assert points[-1]["val_loss"] == pytest.approx(as_they_are[-1]["val_loss"], rel=1e-4)
        assert points[-1]["muon_lr"] == as_they_are[-1]["muon_lr"]


def test_the_next_run_of_a_shape_begins_as_a_fresh_one_would(speeches):
    changed = small_config(speeches, optim={"muon_lr": 0.005, "warmup_frac": 0.3}, model={"aux_loss_coef": 0.1})
    learner_cache.clear()
    expected, _ = run(changed, 2000)
    run(small_config(speeches), 1500)
    after_another, _ = run(changed, 2000)
    assert without_times(after_another) == without_times(expected)


def test_report_stops_training_at_once(speeches):
    points, facts = run(small_config(speeches), 128 * 20, stop_after=2)
    assert len(points) == 2
    assert facts["stopped"] is True
    assert facts["micro_steps"] == 10


def test_bitwise_repeatable_and_the_callers_random_state_is_left_alone(speeches):
    config = small_config(speeches, model={"dropout": 0.1})
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, facts = run(config, 4000)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second, again = run(config, 4000)
    assert without_times(first) == without_times(second)
    assert facts == again
    other, _ = run(config.model_copy(update={"seed": 1}), 4000)
    assert other[-1]["val_loss"] != first[-1]["val_loss"]


def test_evaluating_more_often_does_not_change_training(speeches):
    """Even with dropout: evaluation draws no random numbers and leaves the model training."""
    often = small_config(speeches, model={"dropout": 0.2}, data={"num_evals": 10})
    seldom = small_config(speeches, model={"dropout": 0.2}, data={"num_evals": 1})
    assert run(often, 4000)[0][-1]["val_loss"] == run(seldom, 4000)[0][-1]["val_loss"]


def test_points_hold_what_they_promise(speeches):
    points, facts = run(small_config(speeches), 2000)
    assert set(points[0]) == TIMES | {
        "tokens_seen",
        "val_loss",
        "val_accuracy",
        "val_bpb",
        "train_loss",
        "muon_lr",
        "grad_norm",
        "aux_loss",
        "load_imbalance",
        "skipped_steps",
    }
    assert all(type(value) is float and math.isfinite(value) for point in points for value in point.values())
    last = points[-1]
    assert last["val_bpb"] == pytest.approx(last["val_loss"] / math.log(2) / facts["bytes_per_token"])
    assert last["load_imbalance"] >= 1
    assert json.loads(json.dumps(facts)) == facts


def test_a_budget_smaller_than_a_micro_step(speeches):
    points, facts = run(small_config(speeches), 3)
    assert [point["tokens_seen"] for point in points] == [1, 2, 3]
    assert facts["micro_steps"] == facts["optimizer_steps"] == 1
    with pytest.raises(ValueError, match="budget_tokens = 0"):
        run(small_config(speeches), 0)


def test_epochs_are_counted(speeches):
    config = small_config(speeches, data={"max_tokens": 1400, "val_frac": 0.3})
    points, facts = run(config, 3000)
    assert facts["train_tokens"] == 980
    assert facts["epochs"] == pytest.approx(94 / 30)  # 94 sequences hold 3,000 tokens
    assert points[-1]["train_loss"] < points[0]["train_loss"]


def test_weight_decay_follows_how_often_the_text_is_read(speeches):
    def last_loss(**sections):
        points, facts = run(small_config(speeches, **sections), 4 * 512)
        return facts["epochs"], facts["weight_decay"], points[-1]["val_loss"]

    data = {"train_tokens": 512}
    epochs, decay, loss = last_loss(data=data)
    assert (epochs, decay) == (4.0, pytest.approx((1 - math.exp(-0.15 * 15 / 16)) / 0.01))  # of 16 steps
    assert last_loss(data=data, optim={"weight_decay": decay}) == (epochs, decay, loss)
    assert last_loss(data=data, optim={"weight_decay": 0.0})[2] != loss
    assert last_loss()[1] == 0.0


def test_outputs_are_the_model_that_was_evaluated(speeches, tmp_path):
    config = small_config(speeches, output={"dir": str(tmp_path / "out"), "sample_tokens": 20, "prompt": "The"})
    points, facts = run(config, 3000)
    corpus = load(config.data)
    starts, _ = corpus.eval_starts(2048, 32)
    model = load_model(Path(facts["export_path"]))

    def score(tokens, targets):
        x, _ = model(tokens)
        return count_losses(x.flatten(0, 1), model.embed_tokens.weight, targets.flatten())

    result = evaluate(score, corpus.val_ids, starts, 32, 4, torch.device("cpu"))
    assert result.val_loss == pytest.approx(points[-1]["val_loss"], rel=1e-6)
    assert Path(facts["sample_path"]).read_text(encoding="utf-8").startswith("The")
    assert Path(facts["weights_path"]).is_file()
    assert {path.name for path in Path(facts["export_path"]).iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
        "results.json",
    }


def test_token_files_without_a_tokenizer_have_no_bits_per_byte(speeches, tmp_path):
    corpus = load(small_config(speeches).data)
    path = tmp_path / "ids.bin"
    corpus.train_ids.tofile(path)
    data = {"source": "tokens", "path": str(path), "cache_dir": str(tmp_path / "cache")}
    points, facts = run(small_config(speeches, data=data, output={"dir": str(tmp_path / "out")}), 1000)
    assert "val_bpb" not in points[-1]
    assert facts["bytes_per_token"] is None
    assert "sample_path" not in facts


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_follows_fp32(speeches, dtype):
    exact, _ = run(small_config(speeches), 6000)
    half, facts = run(small_config(speeches, system={"dtype": dtype}), 6000)
    assert facts["dtype"] == {"bf16": "bfloat16", "fp16": "float16"}[dtype]
    assert half[-1]["val_loss"] == pytest.approx(exact[-1]["val_loss"], rel=0.02)


def test_a_training_does_not_load_torchs_compiler(speeches):
    """It would take longer than everything else that is imported beside torch itself."""
    code = (
        "import sys; from model.config import TrainConfig; from model.train import train\n"
        "train(TrainConfig.model_validate_json(sys.argv[1]), 1000, lambda point: True)\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, small_config(speeches).model_dump_json()], check=True)


def test_a_diverging_run_shows_it(speeches):
    points, _ = run(small_config(speeches, optim={"adamw_lr": 1e30, "muon_lr": 1e30}), 1500)
    assert not math.isfinite(points[-1]["val_loss"])
