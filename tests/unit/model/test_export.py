"""Exported weights in transformers' own Qwen3-MoE: an independent check of the whole forward pass."""

import json

import pytest
import torch
from small_model import VOCAB_SIZE, random_tokens, small_model

from model.export import export, load_model
from model.generate import generate
from model.tokenizer import END_OF_TEXT, train_bpe


def exported(model, folder, **kwargs):
    return export(folder, dict(model.named_parameters()), model.config, VOCAB_SIZE, eos_id=0, **kwargs)


@pytest.fixture(scope="module", params=[{}, {"num_experts": 3, "top_k": 1, "num_kv_heads": 4, "rope_theta": 500.0}])
def pair(request, tmp_path_factory):
    from transformers import AutoModelForCausalLM

    model = small_model(seed=5, **request.param)
    folder = exported(model, tmp_path_factory.mktemp("export"))
    twin, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model, twin.eval()


def test_logits_are_equal(pair):
    model, twin = pair
    tokens = random_tokens(3, 16)
    with torch.no_grad():
        expected, logits = twin(tokens).logits, model.logits(tokens)
    assert logits.std() > 0.5
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_greedy_generation_is_equal(pair):
    model, twin = pair
    for seed in range(3):
        prompt = random_tokens(1, 4, seed=seed)
        output = twin.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=10,
            max_length=None,
            eos_token_id=None,
            suppress_tokens=list(range(VOCAB_SIZE, 128)),
            pad_token_id=0,
        )
        assert output[0, 4:].tolist() == generate(model, prompt[0].tolist(), 10, VOCAB_SIZE, temperature=0)


def test_weights_are_named_as_transformers_names_them_and_come_back(tmp_path):
    model = small_model()
    back = load_model(exported(model, tmp_path))
    assert back.config == model.config.model_copy(update={"init_std": back.config.init_std})
    for (name, weight), (other, copy) in zip(model.named_parameters(), back.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(weight, copy)


def test_tokenizer_files_load(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = train_bpe(["the quick brown fox jumps over the lazy dog"] * 5, 280)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    folder = exported(small_model(), tmp_path / "export", tokenizer_path=tmp_path / "tokenizer.json")
    loaded = AutoTokenizer.from_pretrained(folder)
    text = "the lazy fox über\n"
    assert loaded(text)["input_ids"] == tokenizer.encode(text).ids
    assert loaded.decode(tokenizer.encode(text).ids) == text
    assert loaded.eos_token == END_OF_TEXT
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 0
