import pytest
from small_model import small_shape

from model.inference.shape_check import model_of_shape
from model.transformer import Transformer


def shapes_of(config, vocab_size):
    return {name: list(weight.shape) for name, weight in Transformer(config, vocab_size).named_parameters()}


@pytest.mark.parametrize("changes", [{}, {"num_layers": 3, "num_kv_heads": 4, "num_experts": 5, "d_ff": 8}])
def test_a_model_has_the_shape_that_it_says(changes):
    config = small_shape(**changes)
    stored = shapes_of(config, 100)
    assert {
        name: list(weight.shape) for name, weight in model_of_shape(config, 100, stored).named_parameters()
    } == stored


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 3}, "it says a model of"),
        ({"num_layers": 10**7}, "10000000 layers; 1,000 are the most"),
        ({"seq_len": 10**9}, "longest there is"),
        ({"num_experts": 10**12}, "it says a model of"),
    ],
)
def test_another_shape_is_refused_before_it_is_made(changes, message):
    stored = shapes_of(small_shape(), 100)
    with pytest.raises(ValueError, match=message):
        model_of_shape(small_shape(**changes), 100, stored)


def test_as_many_weights_in_other_shapes_are_refused():
    stored = shapes_of(small_shape(), 100)
    name = "layers.0.self_attn.q_proj.weight"
    stored[name] = [16, 64]
    with pytest.raises(ValueError, match=r"q_proj\.weight has the shape \[16, 64\], but the model that it names has"):
        model_of_shape(small_shape(), 100, stored)

    stored["other"] = stored.pop(name)
    with pytest.raises(ValueError, match="is missing"):
        model_of_shape(small_shape(), 100, stored)
