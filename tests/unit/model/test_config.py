import math
import subprocess
import sys

import pytest
from pydantic import ValidationError

from model.config import DataConfig, ModelConfig, OptimConfig, TrainConfig


@pytest.mark.parametrize(
    ("section", "fields", "words"),
    [
        (ModelConfig, {"d_model": 100, "num_heads": 8}, "num_heads = 8 does not divide d_model = 100"),
        (ModelConfig, {"num_kv_heads": 2}, "num_kv_heads = 2 does not divide num_heads = 3"),
        (ModelConfig, {"d_model": 24, "num_heads": 8, "num_kv_heads": 4}, "= 3 is odd"),
        (ModelConfig, {"top_k": 9}, "top_k = 9 exceeds num_experts = 8"),
        (ModelConfig, {"d_ff": 100}, "use 104"),
        (ModelConfig, {"dropout": 1.0}, "less than 1"),
        (ModelConfig, {"num_layers": "6"}, "valid integer"),
        (OptimConfig, {"warmup_frac": 0.5, "decay_frac": 0.6}, "more than the whole budget"),
        (OptimConfig, {"muon_lr": float("nan")}, "finite"),
        (OptimConfig, {"schedule": "step"}, "wsd"),
        (DataConfig, {"source": "text"}, "needs path"),
        (DataConfig, {"source": "hub"}, "needs name"),
        (DataConfig, {"source": "hub", "name": "a/b"}, "needs max_tokens"),
        (DataConfig, {"val_path": "x.bin"}, 'read only by source = "tokens"'),
        (TrainConfig, {"learning_rate": 0.1}, "Extra inputs"),
        (TrainConfig, {"seed": -1}, "greater than or equal to 0"),
    ],
)
def test_wrong_values_are_refused_with_the_reason(section, fields, words):
    with pytest.raises(ValidationError, match=words):
        section.model_validate(fields)


def test_survives_json_and_is_frozen():
    config = TrainConfig.model_validate({"seed": 3, "optim": {"muon_lr": 0.05}, "data": {"eos_id": 7}})
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config
    assert TrainConfig.model_validate(config.model_dump()) == config
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 4


def test_integers_pass_for_floats_as_toml_writes_them():
    assert OptimConfig.model_validate({"grad_clip": 1}).grad_clip == 1.0


@pytest.mark.parametrize("steps", [1, 20, 500])
@pytest.mark.parametrize("muon_lr", [0.01, 0.1])
def test_what_a_whole_run_forgets_follows_how_often_it_reads_its_text(steps, muon_lr):
    """0.15 x (epochs^2 - 1): of 3 epochs 1.2, of 6 5.25."""
    optim = OptimConfig(muon_lr=muon_lr)
    kept = [(1 - muon_lr * optim.decay_for(epochs, steps)) ** steps for epochs in (0.1, 1.0, 3.0, 6.0)]
    assert kept == pytest.approx([1.0, 1.0, math.exp(-1.2), math.exp(-5.25)])


def test_weight_decay_that_is_given_stays():
    assert OptimConfig().decay_for() == OptimConfig(muon_lr=0.0).decay_for(6.0, 10) == 0.0
    assert OptimConfig(weight_decay=0.5).decay_for(1.0) == OptimConfig(weight_decay=0.5).decay_for(6.0, 10) == 0.5
    with pytest.raises(ValidationError, match="auto"):
        OptimConfig(weight_decay="some")


def test_warmup_and_decay_may_fill_the_budget():
    assert OptimConfig(warmup_frac=0.1, decay_frac=0.9).decay_frac == 0.9


def batch_of(micro_batch, accumulation, limit):
    return TrainConfig.model_validate(
        {
            "model": {"seq_len": 128},
            "optim": {"grad_accum_steps": accumulation},
            "system": {"micro_batch_size": micro_batch, "max_pass_sequences": limit},
        }
    )


@pytest.mark.parametrize(
    ("micro_batch", "accumulation", "limit", "expected"),
    [
        (5, 3, 0, 5),  # no limit of its own: micro-batches as they are
        (5, 3, 15, 15),  # the whole batch at once
        (5, 3, 100, 15),
        (5, 3, 14, 5),  # the most that divides 15
        (5, 3, 4, 3),
        (24, 4, 48, 48),
        (7, 1, 3, 1),
    ],
)
def test_a_pass_is_the_most_within_the_limit_that_divides_the_batch(micro_batch, accumulation, limit, expected):
    config = batch_of(micro_batch, accumulation, limit)
    assert config.pass_sequences == expected
    assert config.batch_sequences == micro_batch * accumulation
    assert config.batch_tokens == micro_batch * accumulation * 128


def test_reading_a_config_needs_no_torch():
    code = "import sys, model.config; assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
