"""What an export folder says of itself, to the hub and to programs."""

import json

import pytest
from huggingface_hub import ModelCard
from small_model import small_config

from model.inference import card

FACTS = {
    "val_tokens": 4096,
    "num_params": 1_234_567,
    "num_active_params": 765_432,
    "vocab_size": 320,
    "data_hash": "0123abcd",
    "train_tokens": 50_000,
    "epochs": 2.5,
    "optimizer_steps": 99,
    "tokens_per_step": 64,
    "weight_decay": 0.25,
    "device": "NVIDIA T4",
    "dtype": "float16",
    "notices": [],
}
POINT = {"val_loss": 2.0, "val_accuracy": 0.25, "val_bpb": 1.5, "grad_norm": 1.0}


def written(folder, point=POINT, **sections):
    card.write(folder, small_config(**sections), 125_000, FACTS, point)
    return (folder / "README.md").read_text(encoding="utf-8")


def test_the_hub_reads_the_metadata(tmp_path):
    written(tmp_path, data={"source": "hub", "name": "owner/texts", "max_tokens": 100})
    metadata = ModelCard.load(tmp_path / "README.md").data

    assert (metadata.library_name, metadata.pipeline_tag) == ("transformers", "text-generation")
    assert metadata.license is None  # the owner's to choose
    assert metadata.datasets == ["owner/texts"]
    assert "mixture-of-experts" in metadata.tags
    assert metadata.model_name == "moe-1.23M"
    assert {result.metric_type: result.metric_value for result in metadata.eval_results} == {
        "loss": 2.0,
        "perplexity": pytest.approx(7.389056),
        "accuracy": 0.25,
        "bits_per_byte": 1.5,
    }


def test_people_read_what_it_is_how_it_was_trained_and_what_it_cannot(tmp_path):
    lines = ["study: night", "trial: 3", "git commit: 0a1b2c", "versions: python 3.11, torch 2.13.0"]
    text = written(
        tmp_path,
        optim={"muon_lr": 0.0125, "warmup_frac": 0.07},
        data={"source": "text", "path": "/home/someone/private/book.txt"},
        output={"provenance": lines},
    )
    for fact in (
        "1,234,567, of which 765,432 work on each token",
        "125,000: 2.50 epochs of 50,000",
        "Muon 0.0125",
        "warm-up 7%",
        "weight decay, gradient clip | 0, 0.25, 1 |",
        "book.txt",
        "`0123abcd`",
        "NVIDIA T4, in float16",
        "| 2.0000 | 7.39 | 25.0% | 1.5000 |",
        "On 4,096 tokens",
        "sees at most 16 tokens",
        *(f"- {line}\n" for line in lines),
    ):
        assert fact in text, fact

    assert "/home/someone" not in text


def test_what_is_not_known_is_said(tmp_path):
    point = {name: value for name, value in POINT.items() if name != "val_bpb"}
    text = written(tmp_path, point)
    assert "not known without a tokenizer" in text
    assert "no study is known" in text


def test_results_hold_the_numbers_and_every_setting(tmp_path):
    written(tmp_path, optim={"muon_lr": 0.0125})
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["evaluation"]["loss"] == 2.0
    assert results["evaluation"]["tokens"] == 4096
    assert results["training"]["tokens"] == 125_000
    assert results["config"] == small_config(optim={"muon_lr": 0.0125}).model_dump(mode="json")
