import hashlib
import json

import pytest
import torch
from small_model import VOCAB_SIZE, random_tokens, small_config

from model.training.learner import Learner
from model.training.run_checkpoints import RunCheckpoints, run_identity

CPU = torch.device("cpu")


def identity(budget_tokens=100, data_hash="abc", dtype=torch.float32, **sections):
    return run_identity(small_config(**sections), budget_tokens, data_hash, CPU, dtype)


@pytest.mark.parametrize(
    "sections",
    [
        {"output": {"dir": "elsewhere", "keep_checkpoints": 5}},
        {"data": {"cache_dir": "elsewhere"}},
        {"system": {"memory_bytes": 2**30}},
        {"system": {"device": "auto"}},
    ],
    ids=str,
)
def test_outputs_caches_and_caps_do_not_make_another_run(sections):
    assert identity(**sections) == identity()


@pytest.mark.parametrize(
    "changes",
    [
        {"budget_tokens": 101},
        {"data_hash": "abd"},
        {"dtype": torch.bfloat16},
        {"optim": {"muon_lr": 0.5}},
        {"data": {"num_evals": 3}},
        {"system": {"micro_batch_size": 2}},
    ],
    ids=str,
)
def test_whatever_changes_results_makes_another_run(changes):
    assert identity(**changes) != identity()


def checkpoints(folder, **output):
    return RunCheckpoints(small_config(output={"dir": folder, **output}).output, "abc")


def test_without_a_folder_nothing_is_ever_due():
    none = checkpoints("", checkpoint_every_tokens=1, checkpoint_every_s=0.0)
    assert not none.enabled
    assert not none.due(1000)


def test_a_checkpoint_is_due_at_each_multiple_of_the_tokens(tmp_path):
    learner = Learner(small_config(), VOCAB_SIZE, CPU, torch.float32)
    kept = checkpoints(str(tmp_path), checkpoint_every_tokens=100)

    assert not kept.due(99)
    assert kept.due(100)

    kept.save(learner, 15, 120, {})
    assert not kept.due(199)
    assert kept.due(200)

    kept.resumed_at(230)
    assert not kept.due(299)
    assert kept.due(300)


def test_a_checkpoint_is_due_after_its_seconds(tmp_path):
    assert checkpoints(str(tmp_path), checkpoint_every_s=0.0).due(0)
    assert not checkpoints(str(tmp_path), checkpoint_every_s=3600.0).due(10**9)


def test_a_learner_comes_back_with_its_state(tmp_path):
    tokens = random_tokens(4, 17)
    saved, loaded = (Learner(small_config(), VOCAB_SIZE, CPU, torch.float32) for _ in range(2))
    saved.accumulate(tokens[:, :-1], tokens[:, 1:].contiguous())
    saved.update(1.0)
    saved.accumulate(tokens[:, :-1], tokens[:, 1:].contiguous())
    checkpoints(str(tmp_path)).save(saved, 8, 128, {"points": [{"val_loss": 0.1}]})

    state, notices = checkpoints(str(tmp_path)).load_newest(loaded)
    assert notices == []
    assert state == {"points": [{"val_loss": 0.1}], "pending": 1.0}
    assert loaded.pending == saved.pending

    for part, named in saved.state_tensors().items():
        for name, tensor in named.items():
            assert torch.equal(loaded.state_tensors()[part][name], tensor), name


def test_without_a_checkpoint_the_learner_is_left_alone(tmp_path):
    learner = Learner(small_config(), VOCAB_SIZE, CPU, torch.float32)
    before = learner.weights.weights["embed_tokens.weight"].clone()
    assert checkpoints(str(tmp_path)).load_newest(learner) == (None, [])
    assert torch.equal(learner.weights.weights["embed_tokens.weight"], before)


def test_a_run_does_not_go_on_from_weights_that_were_trained_with_the_weight_1(tmp_path):
    """An earlier version gave a token's single expert the weight 1: the same config was another run then."""
    single = {"model": {"top_k": 1}}
    alone = {"model": {"top_k": 1, "num_experts": 1}}
    learner = Learner(small_config(**single), VOCAB_SIZE, CPU, torch.float32)
    checkpoints(str(tmp_path)).save(learner, 1, 16, {})
    output = small_config(output={"dir": str(tmp_path)}).output
    state, notices = RunCheckpoints(output, identity(**single)).load_newest(learner)

    assert state is None
    assert "gave the single expert of a token the weight 1" in notices[0]
    assert RunCheckpoints(output, "abc").load_newest(learner)[0]["normalises"] is False
    # The identities that the earlier version gave: with a single expert there is, its weight is 1 in both.
    later = {"cache_dir", "expected_hash", "split"}
    fields = small_config(**alone).model_dump(mode="json", exclude={"output": True, "data": later})
    fields["system"] |= {"memory_bytes": 0, "device": "cpu", "dtype": "torch.float32"}
    text = json.dumps([fields, 100, "abc"], sort_keys=True)
    assert identity(**alone) == hashlib.sha256(text.encode()).hexdigest()[:12]
