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


def test_the_probability_of_dropout_is_read_anew_by_every_pass():
    model, tokens = small_model(dropout=0.3), random_tokens(2, 16)
    plain = model(tokens)[0]
    model.train()
    model.drop.zero_()

    torch.testing.assert_close(model(tokens)[0], plain)

    model.drop.fill_(0.5)
    assert not torch.equal(model(tokens)[0], plain)


def test_without_dropout_no_random_number_is_drawn():
    model, tokens = small_model().train(), random_tokens(2, 16)
    before = torch.get_rng_state()
    model(tokens)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_can_be_drawn_into_other_tensors():
    model = small_model(seed=3)
    twins = {name: torch.full_like(parameter, 9.0) for name, parameter in model.named_parameters()}
    model.init_weights(torch.Generator().manual_seed(3), twins)
    for name, parameter in model.named_parameters():
        assert torch.equal(twins[name], parameter), name
