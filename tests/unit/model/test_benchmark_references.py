"""The benchmark's references are only worth a comparison if they learn, and if operations are counted alike."""

import numpy as np
import pytest
import torch
from references import DenseTrainer, LoopMoE, Muon, PlainTrainer, TransformersTrainer, _head_chunk

from model.config import TrainConfig
from model.counts import counts
from model.train import train

CPU = torch.device("cpu")
IDS = (np.arange(4000) % 17).astype(np.uint16)
VOCAB_SIZE = 100


def small_config(**data):
    shape = {"num_layers": 2, "d_model": 32, "num_heads": 4, "num_kv_heads": 2, "d_ff": 48, "num_experts": 4}
    return TrainConfig.model_validate(
        {
            "model": shape | {"seq_len": 16},
            "optim": {"grad_accum_steps": 2, "adamw_lr": 0.01},
            "system": {"device": "cpu", "micro_batch_size": 4},
            "data": data,
        }
    )


CONFIG = small_config()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", [PlainTrainer, TransformersTrainer, DenseTrainer])
def test_reference_learns(kind, dtype):
    torch.manual_seed(0)
    trainer = kind(CONFIG, VOCAB_SIZE, CPU, dtype)
    batches = trainer.batches(IDS, num_workers=0) if kind is PlainTrainer else trainer.batches(IDS)
    losses = [trainer.micro_step(*next(batches)).item() for _ in range(80)]
    assert losses[0] > 4.0  # about ln(128)
    assert losses[-1] < 1.0


def test_transformers_model_learns_with_half_precision_weights_too():
    torch.manual_seed(0)
    trainer = TransformersTrainer(CONFIG, VOCAB_SIZE, CPU, torch.bfloat16, half_weights=True)
    assert {weight.dtype for weight in trainer.weights} == {torch.bfloat16}

    batches = trainer.batches(IDS)
    losses = [trainer.micro_step(*next(batches)).item() for _ in range(80)]
    assert losses[0] > 4.0
    assert losses[-1] < 1.0


def test_transformers_model_has_the_same_weights_and_operations():
    theirs = TransformersTrainer(CONFIG, VOCAB_SIZE, CPU, torch.float32)
    ours = counts(CONFIG, {"vocab_size": VOCAB_SIZE})
    assert sum(weight.numel() for weight in theirs.weights) == ours["weights"]
    assert theirs.flops_per_token == ours["pass_flops"] / (4 * 16)


def test_batches_are_windows_and_their_next_tokens():
    for kind, options in ((PlainTrainer, {"num_workers": 0}), (TransformersTrainer, {}), (DenseTrainer, {})):
        tokens, targets = next(kind(CONFIG, VOCAB_SIZE, CPU, torch.float32).batches(IDS, **options))
        assert tokens.shape == targets.shape == (4, 16)
        assert torch.equal((tokens + 1) % 17, targets)


def test_loop_over_experts_is_the_weighted_sum_of_the_chosen():
    torch.manual_seed(0)
    moe, x = LoopMoE(CONFIG.model), torch.randn(2, 5, 32)
    top, chosen = moe.router(x).softmax(-1).topk(2, -1)
    weight = torch.zeros(2, 5, 4).scatter(-1, chosen, top / top.sum(-1, keepdim=True))
    every = torch.stack([expert(x) for expert in moe.experts], -1)
    torch.testing.assert_close(moe(x), (every * weight.unsqueeze(2)).sum(-1))


def test_chunked_head_has_the_gradients_of_cross_entropy():
    torch.manual_seed(0)
    x, head = torch.randn(6, 8, requires_grad=True), torch.randn(20, 8, requires_grad=True)
    targets = torch.randint(20, (6,))
    expected = torch.nn.functional.cross_entropy(x @ head.T, targets, reduction="sum")
    loss, grad_x, grad_head = _head_chunk(x.detach(), head.detach(), targets, torch.tensor(3.0))

    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close([grad_x, grad_head], list(torch.autograd.grad(3.0 * expected, (x, head))))


def test_variants_of_the_dense_bound_accumulate_the_same_gradients():
    gradients = []
    for variant in ("whole logits", "chunked logits"):
        torch.manual_seed(0)
        trainer = DenseTrainer(CONFIG, VOCAB_SIZE, CPU, torch.float32, variant)
        trainer.micro_step(*next(trainer.batches(IDS)))
        gradients.append([weight.grad for weight in trainer.weights])

    torch.testing.assert_close(*gradients)


def test_batched_muon_does_what_muon_does_matrix_by_matrix():
    torch.manual_seed(0)
    start = [torch.randn(shape) for shape in ((8, 4), (8, 4), (4, 8), (6, 6))]
    grads = [torch.randn_like(weight) for weight in start]
    ends = []

    for batched in (False, True):
        weights = [weight.clone() for weight in start]
        muon = Muon(weights, 0.1, 0.9, torch.float32, batched)
        for _ in range(2):
            for weight, grad in zip(weights, grads, strict=True):
                weight.grad = grad.clone()
            muon.step()
        ends.append(weights)

    torch.testing.assert_close(*ends)


def test_operations_are_counted_as_the_trainer_counts_them(tmp_path):
    IDS.tofile(tmp_path / "train.bin")
    source = {"source": "tokens", "path": str(tmp_path / "train.bin"), "cache_dir": str(tmp_path)}
    config = small_config(**source, vocab_size=VOCAB_SIZE, eval_tokens=64, num_evals=1)
    facts = train(config, 64, lambda point: True)
    plain = PlainTrainer(CONFIG, VOCAB_SIZE, CPU, torch.float32)
    dense = DenseTrainer(CONFIG, VOCAB_SIZE, CPU, torch.float32)

    assert plain.flops_per_token == facts["flops_per_token"]

    router_flops = 6 * CONFIG.model.num_layers * CONFIG.model.num_experts * CONFIG.model.d_model
    assert dense.flops_per_token == plain.flops_per_token - router_flops
