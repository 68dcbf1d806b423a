"""Exported weights in transformers' own Qwen3-MoE: an independent check of the whole forward pass."""

import json

import pytest
import torch
from small_model import VOCAB_SIZE, random_tokens, small_model, small_shape

from model.data.tokenizer import END_OF_TEXT, train_bpe
from model.inference.export import export, load_model
from model.inference.generate import generate
from model.transformer import Transformer


def exported(model, folder, **kwargs):
    return export(folder, dict(model.named_parameters()), model.config, VOCAB_SIZE, eos_id=0, **kwargs)


SHAPES = [{}, {"num_experts": 3, "top_k": 1, "num_kv_heads": 4, "rope_theta": 500.0}]


@pytest.fixture(scope="module", params=SHAPES)
def pair(request, tmp_path_factory):
    from transformers import AutoModelForCausalLM

    model = small_model(seed=5, seq_len=64, **request.param)
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


@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_generation_is_equal(pair, use_cache):
    """As a stranger calls it: where a text ends and which ids are padding stands in the folder."""
    model, twin = pair
    lengths = []
    for seed in range(3):
        prompt = random_tokens(1, 4, seed=seed)
        settings = {"attention_mask": torch.ones_like(prompt), "do_sample": False, "use_cache": use_cache}
        output = twin.generate(prompt, max_new_tokens=50, **settings)[0, 4:].tolist()
        assert output == generate(model, prompt[0].tolist(), 50, VOCAB_SIZE, eos_id=0, temperature=0)
        lengths.append(len(output))

    assert max(lengths) == 50


def test_ids_that_pad_the_vocabulary_are_never_drawn(pair):
    _, twin = pair
    prompt = random_tokens(1, 4)
    with torch.no_grad():
        twin.lm_head.weight[VOCAB_SIZE:] += twin(prompt, output_hidden_states=True).hidden_states[-1][0, -1]
        assert twin(prompt).logits[0, -1].argmax() >= VOCAB_SIZE
        settings = {"attention_mask": torch.ones_like(prompt), "do_sample": False}
        assert twin.generate(prompt, max_new_tokens=1, **settings)[0, -1] < VOCAB_SIZE


def test_weights_are_written_and_read_as_fp32(tmp_path):
    from transformers import AutoModelForCausalLM

    half = {name: weight.bfloat16() for name, weight in small_model().named_parameters()}
    folder = export(tmp_path, half, small_model().config, VOCAB_SIZE, eos_id=0)
    fields = json.loads((folder / "config.json").read_text())

    assert (fields["dtype"], fields["torch_dtype"]) == ("float32", "float32")

    twin = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert {weight.dtype for weight in twin.parameters()} == {torch.float32}


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
    assert set(loaded(text)) == {"input_ids", "attention_mask"}  # what generate() takes
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 0


def test_a_batch_of_prompts_is_padded_and_continued_as_each_alone(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = train_bpe(["the quick brown fox jumps over the lazy dog"] * 5, 280)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    model = Transformer(small_shape(seq_len=64, init_std=0.2), 280)
    model.init_weights(torch.Generator().manual_seed(0))
    weights = dict(model.named_parameters())
    folder = export(tmp_path / "export", weights, model.config, 280, 0, tmp_path / "tokenizer.json")
    loaded, twin = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()

    prompts = ["the", "the quick brown fox"]
    batch = twin.generate(**loaded(prompts, padding=True, return_tensors="pt"), max_new_tokens=5, do_sample=False)
    for row, prompt in zip(batch, prompts, strict=True):
        alone = twin.generate(**loaded(prompt, return_tensors="pt"), max_new_tokens=5, do_sample=False)
        assert row[-5:].tolist() == alone[0, -5:].tolist()


def test_an_end_token_that_no_list_of_added_tokens_has_is_named(tmp_path):
    tokenizer = train_bpe(["the quick brown fox"] * 5, 280)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    end = tokenizer.token_to_id("!")
    model = small_model()
    export(tmp_path / "export", dict(model.named_parameters()), model.config, 280, end, tmp_path / "tokenizer.json")
    settings = json.loads((tmp_path / "export" / "tokenizer_config.json").read_text())
    assert settings["eos_token"] == settings["pad_token"] == "!"


def test_weights_of_an_earlier_version_say_that_a_single_expert_weighs_1(tmp_path):
    """What they compute is what they were trained as, here and in transformers."""
    from transformers import AutoModelForCausalLM

    model = small_model(seed=5, top_k=1)
    weights = dict(model.named_parameters())
    folder = export(tmp_path / "before", weights, model.config, VOCAB_SIZE, eos_id=0, normalises=True)
    tokens = random_tokens(3, 16)
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(folder).eval()(tokens).logits
        before, now = load_model(folder).logits(tokens), model.logits(tokens)

    torch.testing.assert_close(before, expected, atol=1e-4, rtol=0)
    assert (now - before).abs().max() > 0.1
    assert load_model(exported(model, tmp_path / "now")).logits(tokens).allclose(now, atol=1e-4)
