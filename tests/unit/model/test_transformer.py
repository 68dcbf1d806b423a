import torch
from small_model import random_tokens, small_model

from model.transformer import flops_per_token, num_params, padded_vocab_size


def test_vocabulary_is_padded_to_64():
    assert [padded_vocab_size(size) for size in (1, 64, 65, 50281)] == [64, 64, 128, 50304]


def test_parameter_and_operation_counts_by_hand():
    model = small_model()
    attention = 32 * 32 * 2 + 32 * 16 * 2 + 8 * 2
    expert, router, norms = 3 * 32 * 48, 4 * 32, 2 * 32
    total = 128 * 32 + 32 + 2 * (attention + 4 * expert + router + norms)
    active = total - 2 * 2 * expert
    assert num_params(model) == (total, active)
    assert flops_per_token(model) == 6 * active + 6 * 2 * 16 * 32


def test_shapes_and_router_statistics():
    x, stats = small_model()(random_tokens(3, 10))
    assert x.shape == (3, 10, 32)
    assert stats.load_LE.shape == (2, 4)
    assert (stats.load_LE.sum(1) == 3 * 10 * 2).all()
    assert stats.aux_loss.shape == stats.z_loss.shape == ()


def test_maps_into_the_residual_stream_start_smaller():
    model = small_model(init_std=0.1)
    layer = model.layers[0]
    assert 0.08 < layer.mlp.experts.gate_up_proj.std() < 0.12
    assert 0.04 < layer.mlp.experts.down_proj.std() < 0.06  # 0.1 / sqrt(2 x 2 layers)
    assert 0.04 < layer.self_attn.o_proj.weight.std() < 0.06
    assert (layer.input_layernorm.weight == 1).all()


def test_dropout_changes_training_only():
    model, tokens = small_model(dropout=0.3), random_tokens(2, 16)
    assert torch.equal(model(tokens)[0], model(tokens)[0])
    model.train()
    assert not torch.equal(model(tokens)[0], model(tokens)[0])
