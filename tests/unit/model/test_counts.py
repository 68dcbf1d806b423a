import pytest
from small_model import VOCAB_SIZE, small_config, small_model

from model.counts import counts
from model.transformer import flops_per_token, num_params

FACTS = {"vocab_size": VOCAB_SIZE, "dtype": "float32", "chunk_rows": 512}
ADAMW_WEIGHTS = 128 * 32 + 2 * 4 * 32 + (2 * (2 * 32 + 2 * 8) + 32)  # embedding, routers, norms


def test_an_optimizer_step_is_its_passes():
    config = small_config(optim={"grad_accum_steps": 3}, system={"max_pass_sequences": 6})
    work = counts(config, FACTS)
    assert work["step_tokens"] == 12 * 16
    assert work["passes"] == 2
    assert work["pass_flops"] == flops_per_token(small_model()) * 6 * 16


@pytest.mark.parametrize(("dtype", "copy_bytes"), [("float32", 0), ("bfloat16", 2), ("float16", 2)])
def test_fixed_bytes_are_weights_gradients_copies_and_state(dtype, copy_bytes):
    weights, _ = num_params(small_model())
    muon_weights = weights - ADAMW_WEIGHTS
    work = counts(small_config(), FACTS | {"dtype": dtype})
    assert work["weights"] == weights
    assert work["fixed_bytes"] == weights * (8 + copy_bytes) + 4 * muon_weights + 8 * ADAMW_WEIGHTS


def test_an_update_works_on_the_largest_group_of_matrices():
    """Gate and up of all experts, 48 x 32."""
    largest = 2 * 4 * 2 * 48 * 32
    assert counts(small_config(), FACTS)["update_bytes"] == pytest.approx(largest * 4 * (3 + 2 * 32 / 48))


def test_half_precision_and_shorter_passes_take_less_memory():
    whole = counts(small_config(), FACTS)["pass_bytes"]
    assert counts(small_config(), FACTS | {"dtype": "bfloat16"})["pass_bytes"] < whole
    assert counts(small_config(system={"max_pass_sequences": 2}), FACTS)["pass_bytes"] < whole
    assert counts(small_config(), FACTS | {"chunk_rows": 1})["pass_bytes"] <= whole


def test_millions_of_layers_are_counted_from_two():
    def weights(num_layers):
        return counts(small_config(model={"num_layers": num_layers}), FACTS)["weights"]

    per_layer = weights(2) - weights(1)
    assert weights(5) == weights(1) + 4 * per_layer
    assert weights(10**7) == weights(1) + (10**7 - 1) * per_layer


def test_without_a_run_before_the_least_is_counted():
    for name, value in counts(small_config(), {}).items():
        assert value <= counts(small_config(), FACTS)[name], name
