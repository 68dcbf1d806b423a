"""Data as strangers have it: files, folders and tokenizers of every make, and what has to come of them.

Every case ends in one of three ways: the data are refused by a sentence, they are taken with a notice, or they are
taken as they are and hold what they should.
"""

import bz2
import gzip
import io
import json
import lzma
import os
import random
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from model.config import DataConfig
from model.data.corpus import Corpus, load
from model.data.errors import CorpusError

WORDS = ("the", "state", "of", "our", "union", "is", "strong", "and", "people", "these", "united", "café", "☕")
Fields = Mapping[str, Any]


def prose(number: int, words: int = 60) -> str:
    """Return a text that no other number has."""
    drawn = random.Random(number)
    return f"document {number} " + " ".join(drawn.choice(WORDS) for _ in range(words))


TEXTS = [prose(number) for number in range(40)]


@dataclass(frozen=True)
class Case:
    """One case.

    Args:
        name: What the data are.
        make: Makes them in a folder, and returns the fields of a `DataConfig`.
        refused: What the sentence has to say, each of it; () if the data are to be taken.
        said: What the notices have to say, each of it.
        documents: How many documents there must be; 0 if that does not matter.
        share: Whether about `val_frac` of the tokens must be held out.
        texts: What the documents must be, decoded; () if that does not matter.
        bytes_right: Whether bits per byte must divide by the bytes of the text (True), or must not be told (False).
        eos: The id of the end-of-text token, if that matters.
    """

    name: str
    make: Callable[[Path], Fields]
    refused: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    documents: int = 0
    share: bool = False
    texts: tuple[str, ...] = ()
    bytes_right: bool | None = None
    eos: int | None = None
    ids: tuple[int, ...] = field(default=())


def _zstd(content: bytes) -> bytes:
    buffer = pa.BufferOutputStream()
    with pa.CompressedOutputStream(buffer, "zstd") as stream:
        stream.write(content)
    return bytes(buffer.getvalue())


def judge(case: Case, folder: Path) -> str:
    """Return what is wrong with what comes of a case; "" if nothing is.

    Args:
        case: The case.
        folder: An empty folder.
    """
    fields = {"vocab_size": 300, "val_frac": 0.2, "cache_dir": str(folder / "cache"), **case.make(folder)}
    try:
        corpus = load(DataConfig.model_validate(fields))
        if not case.refused:
            return _judge_taken(case, corpus, fields)
        return f"taken, where {case.refused} was to be said"
    except CorpusError as error:
        missing = [words for words in case.refused if words not in str(error)]
        if not case.refused or missing:
            return f"refused without {missing}: {error}"
    except Exception as error:  # noqa: BLE001 - whatever comes of bad data is what is asked here
        return f"{type(error).__name__}: {error}"
    return ""


def _judge_taken(case: Case, corpus: Corpus, fields: Fields) -> str:
    notices = " | ".join(corpus.notices)
    missing = [words for words in case.said if words not in notices]
    if missing:
        return f"notices without {missing}: {notices}"

    documents = corpus.train_documents + corpus.val_documents
    if case.documents and documents != case.documents:
        return f"{documents} documents, not {case.documents}"

    num_val, num_train = len(corpus.val_ids), len(corpus.train_ids)
    frac = num_val / (num_val + num_train)
    if case.share and not fields["val_frac"] / 2 <= frac <= fields["val_frac"] * 2:
        return f"{frac:.0%} are held out"

    if case.eos is not None and corpus.eos_id != case.eos:
        return f"the end of a text is {corpus.eos_id}, not {case.eos}"
    both = np.concatenate([corpus.train_ids, corpus.val_ids])
    if case.ids and sorted(both.tolist()) != sorted(case.ids):
        return "other ids than in the file"
    if case.texts and sorted(decoded(corpus, both)) != sorted(case.texts):
        return "other texts than in the file"
    return _judge_bytes(case, corpus)


def decoded(corpus: Corpus, ids: Any) -> list[str]:
    """Return the documents that ids stand for."""
    tokenizer = Tokenizer.from_file(str(corpus.tokenizer_path))
    pieces = np.split(ids, np.flatnonzero(ids == corpus.eos_id) + 1)
    return [tokenizer.decode(piece[:-1].tolist(), skip_special_tokens=False) for piece in pieces if len(piece)]


def _judge_bytes(case: Case, corpus: Corpus) -> str:
    """Compare the mean bytes per token of the whole held-out part with the texts that were held out."""
    if case.bytes_right is None:
        return ""
    per_token = corpus.bytes_per_token(np.array([0]), len(corpus.val_ids) - 1)
    if not case.bytes_right:
        return "" if per_token is None else f"{per_token} bytes per token are told"

    # Each text is told apart by its number, which every tokenizer keeps.
    held_out = [text for text in TEXTS if _number(text) in {_number(text) for text in decoded(corpus, corpus.val_ids)}]
    expected = sum(len(text.encode()) for text in held_out) / (len(corpus.val_ids) - 1)
    if per_token is None or abs(per_token - expected) > 0.02 * expected:
        return f"{per_token} bytes per token, where there are {expected}"
    return ""


def _number(text: str) -> str:
    return "".join(character for character in text if character.isdigit())


# --- files -------------------------------------------------------------------------------------------------


def text_file(content: str | bytes, name: str = "a.txt") -> Callable[[Path], Fields]:
    """Return what writes one text file."""

    def make(folder: Path) -> Fields:
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)
        return {"source": "text", "path": str(folder / name)}

    return make


def text_folder(contents: Mapping[str, str | bytes], path: str = "texts") -> Callable[[Path], Fields]:
    """Return what writes a folder of text files."""

    def make(folder: Path) -> Fields:
        (folder / "texts").mkdir()
        for name, content in contents.items():
            text_file(content, name)(folder / "texts")
        return {"source": "text", "path": str(folder / path)}

    return make


ROWS = [{"text": text} for text in TEXTS]


def jsonl(content: list[Any] | str | bytes, name: str = "a.jsonl", **fields: Any) -> Callable[[Path], Fields]:
    """Return what writes a file of rows, or of what stands for them."""

    def make(folder: Path) -> Fields:
        data = content
        if isinstance(data, list):
            data = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in data)
        text_file(data, name)(folder)
        return {"source": "jsonl", "path": str(folder / name), **fields}

    return make


def parquet(columns: Mapping[str, Any], name: str = "a.parquet", **fields: Any) -> Callable[[Path], Fields]:
    """Return what writes a Parquet file; the columns are given as functions of pyarrow, or as lists."""

    def make(folder: Path) -> Fields:
        import pyarrow as pa
        import pyarrow.parquet as pq

        arrays = {key: value(pa) if callable(value) else pa.array(value) for key, value in columns.items()}
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(arrays), folder / name)
        return {"source": "parquet", "path": str(folder / name), **fields}

    return make


def at(place: str, make: Callable[[Path], Fields], path: str = "") -> Callable[[Path], Fields]:
    """Return what makes data in a folder below, and names them by another path if one is given."""

    def make_there(folder: Path) -> Fields:
        there = folder / place
        there.mkdir(parents=True)
        fields = dict(make(there))
        return fields | {"path": str(folder / path)} if path else fields

    return make_there


def named(path: str) -> Callable[[Path], Fields]:
    """Return what makes nothing, and names a path of the folder (or one that begins with "~" or "/")."""
    return lambda folder: {"source": "text", "path": path if path[0] in "~/" else str(folder / path)}


def _dangling(folder: Path) -> Fields:
    (folder / "a.txt").symlink_to(folder / "nothing")
    return {"source": "text", "path": str(folder / "a.txt")}


def _loop(folder: Path) -> Fields:
    (folder / "a.txt").symlink_to(folder / "a.txt")
    return {"source": "text", "path": str(folder / "a.txt")}


def _pipe(folder: Path) -> Fields:
    os.mkfifo(folder / "a.txt")
    return {"source": "text", "path": str(folder / "a.txt")}


def _cache_is_a_file(folder: Path) -> Fields:
    (folder / "cache").write_text("no folder")
    return text_folder({f"{number}.txt": text for number, text in enumerate(TEXTS)})(folder)


def _two_schemas(folder: Path) -> Fields:
    parquet({"text": TEXTS[:20], "n": [1] * 20}, "p/1.parquet")(folder)
    parquet({"m": ["x"] * 20, "text": TEXTS[20:]}, "p/2.parquet")(folder)
    return {"source": "parquet", "path": str(folder / "p")}


def _cut_file(make: Callable[[Path], Fields]) -> Callable[[Path], Fields]:
    def make_and_cut(folder: Path) -> Fields:
        fields = make(folder)
        path = Path(fields["path"])
        path.write_bytes(path.read_bytes()[:-40])
        return fields

    return make_and_cut


def _joined(separator: str, number: int = 40) -> str:
    return separator.join(TEXTS[:number])


FOLDER = {f"{number:02d}.txt": text for number, text in enumerate(TEXTS)}
LONG = " ".join(prose(number, 2000) for number in range(3))
LONG_LETTERS = "".join(random.Random(7).choices("abcdefghij", k=60_000))

TEXT_CASES = [
    Case(
        "a byte order mark", text_folder({n: b"\xef\xbb\xbf" + t.encode() for n, t in FOLDER.items()}), texts=(*TEXTS,)
    ),
    Case("UTF-16 with a mark", text_file(_joined("\n\n").encode("utf-16")), ("a.txt is UTF-16",)),
    Case("UTF-16 big-endian with a mark", text_file(b"\xfe\xff" + "abc".encode("utf-16-be") * 99), ("is UTF-16",)),
    Case("UTF-16 without a mark", text_file("plain".encode("utf-16-le") * 99), ("a.txt is binary",)),
    Case("UTF-32", text_file(_joined("\n\n").encode("utf-32")), ("a.txt is UTF-32",)),
    Case("latin-1 in line 3", text_file(b"one\ntwo\nCaf\xe9\n"), ("a.txt:3:", "0xe9")),
    Case("latin-1 behind a mark", text_file(b"\xef\xbb\xbfone\nCaf\xe9\n"), ("a.txt:2:", "0xe9 at 10")),
    Case("a character cut at the end", text_file(_joined("\n\n").encode() + b"\xe2\x98"), ("not UTF-8 text",)),
    Case("zero bytes", text_file(b"abc\0def" * 100), ("a.txt is binary",)),
    Case("a picture among texts", text_folder({**FOLDER, "x.png": b"\x89PNG\r\n\x1a\n\0\0"}), ("x.png", "glob")),
    Case("gzip", text_folder({f"{n}.gz": gzip.compress(t.encode()) for n, t in FOLDER.items()}), texts=(*TEXTS,)),
    Case("bzip2", text_folder({f"{n}.bz2": bz2.compress(t.encode()) for n, t in FOLDER.items()}), texts=(*TEXTS,)),
    Case("xz", text_folder({f"{n}.xz": lzma.compress(t.encode()) for n, t in FOLDER.items()}), texts=(*TEXTS,)),
    Case("zstandard", text_folder({f"{n}.zst": _zstd(t.encode()) for n, t in FOLDER.items()}), texts=(*TEXTS,)),
    Case("zstandard cut off", text_file(_zstd(_joined("\n\n").encode())[:-30], "a.txt.zst"), ("a.txt.zst cannot be",)),
    Case("gzip without its suffix", text_file(gzip.compress(_joined("\n\n").encode())), share=True),
    Case("gzip cut off", text_file(gzip.compress(_joined("\n\n").encode())[:-30], "a.txt.gz"), ("a.txt.gz cannot be",)),
    Case("gzip with a wrong sum", text_file(gzip.compress(b"abc" * 999)[:-8] + b"x" * 8), ("a.txt cannot be read",)),
    Case("xz cut off", text_file(lzma.compress(_joined("\n\n").encode())[:-30]), ("a.txt cannot be read",)),
    Case("a zip archive", text_file(b"PK\x03\x04" + b"x" * 99), ("a.txt is a zip archive",)),
    Case("a PDF", text_file(b"%PDF-1.7\n" + b"x" * 99), ("a.txt is a PDF",)),
    Case("an empty file", text_file(""), ("0 different documents",)),
    Case("blank lines alone", text_file(" \n\n\t\n" * 99), ("0 different documents",)),
    Case("a text of three letters", text_file("abc"), ("1 different documents",)),
    Case("the same text 40 times", text_folder(dict.fromkeys(FOLDER, "the same")), ("1 different documents",)),
    Case("one long line", text_file(LONG), said=("are cut",), share=True),
    Case("one long word", text_file(LONG_LETTERS), said=("are cut",), share=True),
    Case("lines without blank ones", text_file(LONG.replace("strong", "strong.\n")), said=("are cut",), share=True),
    Case("one blank line in the middle", text_file(LONG * 2 + "\n\n" + LONG_LETTERS), said=("are cut",), share=True),
    Case("ends of lines as on Windows", text_file(_joined("\r\n\r\n")), share=True),
    Case("ends of lines as on old Macs", text_file("\r".join(prose(n, 400) for n in range(40))), share=True),
    Case("one large text among small ones", text_folder({**FOLDER, "large.txt": LONG}), share=True),
    Case("two books", text_folder({"a.txt": LONG * 2, "b.txt": LONG_LETTERS}), said=("are cut",), share=True),
    Case("two short texts", text_folder(dict(list(FOLDER.items())[:2])), said=("are held out where",)),
    Case("lines of <|endoftext|>", text_file(_joined("\n<|endoftext|>\n")), said=("39 lines of",), documents=40),
    Case(
        "<|endoftext|> within a text",
        text_folder({**FOLDER, "x.txt": "it writes <|endoftext|> here"}),
        said=("1 documents spell <|endoftext|> out",),
        documents=41,
        texts=(*TEXTS, "it writes <|endoftext|> here"),
    ),
    Case("JSON lines read as text", jsonl(ROWS, source="text"), said=("a.jsonl is read as plain text",)),
    Case("Parquet read as text", parquet({"text": TEXTS}, source="text"), ("a.parquet",)),
    Case("a folder of hidden files", text_folder({".a.txt": "x", ".b.txt": "y"}), ("no file at",)),
    Case("a dangling link", _dangling, ("no file at", "data.path")),
    Case("a link to itself", _loop, ("data.path",)),
    Case("a pipe", _pipe, ("no file at", "data.path")),
    Case("nothing there", named("none*.txt"), ("no file at", "data.path")),
    Case("a path with a zero byte", named("a\0b"), ("data.path",)),
    Case("a path that is too long", named("x" * 5000), ("data.path",)),
    Case("the home of nobody", named("~nobody-of-that-name/x"), ("data.path",)),
    Case("a folder with brackets", at("a[1]", text_folder(FOLDER)), documents=40),
    Case("a glob in a folder with brackets", at("a[1]", text_folder(FOLDER), "a[1]/texts/*.txt"), documents=40),
    Case("a folder with braces", at("a{b}{}", text_folder(FOLDER)), documents=40),
    Case("a folder with a star", at("a*?", text_folder(FOLDER), "a*?/texts/**/*.txt"), documents=40),
    Case("a folder with a line break", at("a\nb \t'\"", text_folder(FOLDER)), documents=40),
    Case("a folder that is no UTF-8", at("a\udcff", text_folder(FOLDER)), documents=40),
    Case("a cache folder that is a file", _cache_is_a_file, ("data.cache_dir",)),
    Case(
        "fewer tokens than asked for", lambda f: {**text_folder(FOLDER)(f), "max_tokens": 10**6}, said=("max_tokens",)
    ),
    Case(
        "few tokens asked for", lambda f: {**text_folder(FOLDER)(f), "max_tokens": 100, "val_frac": 0.001}, share=False
    ),
]

LATE = [{"text": text, "url": None, "n": 1} for text in TEXTS] + [{"text": "last", "url": "http://x", "n": "one"}]
JSONL_CASES = [
    Case("a column of another type later on", jsonl(LATE), texts=(*TEXTS, "last")),
    Case("a number of 5,000 digits elsewhere", jsonl([*ROWS, '{"text": "x", "n": ' + "9" * 5000 + "}"]), documents=41),
    Case("NaN elsewhere", jsonl([*ROWS, '{"text": "x", "n": NaN}']), documents=41),
    Case("columns that differ by row", jsonl([{"text": t, f"c{i}": i} for i, t in enumerate(TEXTS)]), documents=40),
    Case("null for a text", jsonl([*ROWS, {"text": None}]), said=("1 rows have null", "a.jsonl:41"), documents=40),
    Case("null for all texts", jsonl([{"text": None}] * 9), ("0 different documents",)),
    Case(
        "a row without the field", jsonl([*ROWS[:2], {"body": "x"}, *ROWS]), ("a.jsonl:3:", "body", "data.text_field")
    ),
    Case("a number for a text", jsonl([*ROWS, {"text": 5}]), ("a.jsonl:41:", "a number", "data.text_field")),
    Case("a list for a text", jsonl([{"text": ["a"]}, *ROWS]), ("a.jsonl:1:", "a list", "data.text_field")),
    Case("an object for a text", jsonl([{"text": {"a": 1}}, *ROWS]), ("a.jsonl:1:", "an object")),
    Case("true for a text", jsonl([*ROWS, {"text": True}]), ("a.jsonl:41:", "true or false")),
    Case("rows that are lists", jsonl(['{"text": "x"}', '["a"]', *ROWS]), ("a.jsonl:2:", "a list")),
    Case("rows that are texts", jsonl([json.dumps(text) for text in TEXTS]), ("a.jsonl:1:", "a text")),
    Case("rows of plain text", jsonl(_joined("\n")), ("a.jsonl:1:", "data.source")),
    Case("broken JSON in row 2", jsonl('{"text": "fine"}\n{"text": \n'), ("a.jsonl:2:",)),
    Case("a row cut off at the end", _cut_file(jsonl(ROWS)), ("a.jsonl:40:",)),
    Case("two objects in a line", jsonl('{"text": "a"}{"text": "b"}\n'), ("a.jsonl:1:",)),
    Case("JSON over several lines", jsonl(json.dumps(ROWS[0], indent=1)), ("a.jsonl:1:", "one line")),
    Case("one list of objects", jsonl(json.dumps(ROWS, indent=1), "a.json"), texts=(*TEXTS,)),
    Case("a list with a number", jsonl(json.dumps([*ROWS, 5])), ("a.jsonl:41:", "a number")),
    Case("blank lines between rows", jsonl("\n\n".join(map(json.dumps, ROWS)) + "\n \n"), texts=(*TEXTS,)),
    Case("ends of lines as on Windows", jsonl("\r\n".join(map(json.dumps, ROWS))), texts=(*TEXTS,)),
    Case("a byte order mark", jsonl(b"\xef\xbb\xbf" + "\n".join(map(json.dumps, ROWS)).encode()), texts=(*TEXTS,)),
    Case("a byte order mark in a text", jsonl([{"text": "\ufeff" + text} for text in TEXTS]), texts=(*TEXTS,)),
    Case("UTF-16", jsonl("\n".join(map(json.dumps, ROWS)).encode("utf-16")), ("a.jsonl:1:",)),
    Case("latin-1 in row 2", jsonl(b'{"text": "a"}\n{"text": "Caf\xe9"}\n'), ("a.jsonl:2:",)),
    Case("half a character", jsonl([*ROWS, '{"text": "x \\ud83d y"}']), said=("1 texts hold halves",), documents=41),
    Case("nesting without end", jsonl([*ROWS, "[" * 200_000]), ("a.jsonl:41:",)),
    Case("gzip", jsonl(gzip.compress("\n".join(map(json.dumps, ROWS)).encode()), "A.JSONL.gz"), texts=(*TEXTS,)),
    Case("gzip cut off", jsonl(gzip.compress(json.dumps(ROWS).encode())[:-30]), ("a.jsonl cannot be read",)),
    Case("no rows", jsonl(""), ("0 different documents",)),
    Case("empty texts", jsonl([{"text": " "}] * 5), ("0 different documents",)),
    Case("another field", jsonl([{"body": text} for text in TEXTS], text_field="body"), texts=(*TEXTS,)),
    Case("a field with a dot", jsonl([{"a.b": text} for text in TEXTS], text_field="a.b"), texts=(*TEXTS,)),
    Case("a file with braces, colons and stars", jsonl(ROWS, "{a}::b*?[1]%20.jsonl"), texts=(*TEXTS,)),
    Case("one row", jsonl([{"text": LONG}]), said=("are cut",), share=True),
    Case("one long row among short ones", jsonl([*ROWS, {"text": LONG}]), share=True),
    Case(
        "<|endoftext|> in a row",
        jsonl([*ROWS, {"text": "a <|endoftext|> b"}]),
        said=("1 documents spell",),
        documents=41,
    ),
    Case("Parquet read as JSON lines", parquet({"text": TEXTS}, source="jsonl"), ("a.parquet:1:", "data.source")),
]

PARQUET_CASES = [
    Case("null for a text", parquet({"text": [*TEXTS, None]}), said=("1 rows have null", "a.parquet:41"), documents=40),
    Case("a column of numbers", parquet({"text": [1, 2], "b": ["x", "y"]}), ("a.parquet", "is int64, not text", "b")),
    Case("a column of lists", parquet({"text": [["a"], ["b"]]}), ("a.parquet", "not text", "data.text_field")),
    Case("a column of objects", parquet({"text": [{"a": 1}]}), ("a.parquet", "not text", "data.text_field")),
    Case("no such column", parquet({"body": TEXTS}), ("a.parquet", "body", "data.text_field")),
    Case("texts as bytes", parquet({"text": [text.encode() for text in TEXTS]}), texts=(*TEXTS,)),
    Case("bytes that are no text", parquet({"text": [b"a", b"b", b"\xff"]}), ("a.parquet:3:",)),
    Case("large strings", parquet({"text": lambda pa: pa.array(TEXTS, pa.large_string())}), texts=(*TEXTS,)),
    Case("a dictionary", parquet({"text": lambda pa: pa.array(TEXTS).dictionary_encode()}), texts=(*TEXTS,)),
    Case("a column with a dot", parquet({"a.b": TEXTS}, text_field="a.b"), texts=(*TEXTS,)),
    Case("files of two schemas", _two_schemas, texts=(*TEXTS,)),
    Case("a file with braces and colons", parquet({"text": TEXTS}, "{a}::b[1].parquet"), texts=(*TEXTS,)),
    Case("cut off", _cut_file(parquet({"text": TEXTS})), ("a.parquet:1:",)),
    Case("no Parquet", jsonl(ROWS, source="parquet"), ("a.jsonl:1:", "parquet")),
    Case("an empty file", text_file("", "a.parquet"), ("0 different documents",)),
    Case("no rows", parquet({"text": lambda pa: pa.array([], pa.string())}), ("0 different documents",)),
]
PARQUET_CASES[-2] = Case(
    "an empty file",
    lambda folder: {**text_file(b"", "a.parquet")(folder), "source": "parquet"},
    ("a.parquet:1:",),
)

# --- token ids ---------------------------------------------------------------------------------------------

_RANDOM = np.random.default_rng(0)
IDS = np.concatenate([[*_RANDOM.integers(1, 300, 50), 0] for _ in range(60)]).astype(np.int64)
FEW = tuple(IDS.tolist())


def tokens(data: bytes | np.ndarray, name: str = "t.bin", **fields: Any) -> Callable[[Path], Fields]:
    """Return what writes a file of token ids."""

    def make(folder: Path) -> Fields:
        content = data if isinstance(data, bytes) else data.tobytes()
        text_file(content, name)(folder)
        return {"source": "tokens", "path": str(folder / name), **fields}

    return make


def npy(array: Any, **options: Any) -> bytes:
    """Return the bytes of a .npy file."""
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def _npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, ids=IDS)
    return stream.getvalue()


def _zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("data.pkl", b"x")
    return stream.getvalue()


def _llm_c() -> bytes:
    header = np.zeros(256, dtype="<i4")
    header[:3] = (20240520, 1, len(IDS))
    return header.tobytes() + IDS.astype("<u2").tobytes()


def _same_file(folder: Path) -> Fields:
    fields = tokens(IDS.astype("<u2"))(folder)
    (folder / "link.bin").symlink_to(folder / "t.bin")
    return {**fields, "val_path": str(folder / "link.bin")}


def _two_widths(folder: Path) -> Fields:
    tokens(npy(IDS[100:].astype("u4")), "v.npy")(folder)
    return {**tokens(npy(IDS[:100].astype("u2")), "t.npy")(folder), "val_path": str(folder / "v.npy")}


def _two_files(folder: Path) -> Fields:
    tokens(IDS.astype("<u2"), "a.bin")(folder)
    tokens(IDS.astype("<u2"), "b.bin")(folder)
    return {"source": "tokens", "path": str(folder)}


def _missing_validation(folder: Path) -> Fields:
    return {**tokens(IDS.astype("<u2"))(folder), "val_path": str(folder / "none.bin")}


UNEVEN = np.concatenate(
    [*([*_RANDOM.integers(1, 300, 20), 0] for _ in range(9)), _RANDOM.integers(1, 300, 20_000), [0]]
)
WIDE = np.concatenate([IDS, IDS + 69_000])
TOKEN_CASES = [
    Case("uint16", tokens(IDS.astype("<u2"), eos_id=0), ids=FEW, documents=60),
    Case("uint32", tokens(IDS.astype("<u4"), token_dtype="uint32"), ids=FEW),
    Case("uint32 read as uint16", tokens(IDS.astype("<u4")), ("t.bin", "data.token_dtype", "uint32")),
    Case("int64 read as uint16", tokens(IDS.astype("<i8")), ("t.bin", "data.token_dtype")),
    Case("int64 read as uint32", tokens(IDS.astype("<i8"), token_dtype="uint32"), ("t.bin", "64 bits")),
    Case(
        "uint16 read as uint32",
        tokens(IDS.astype("<u2"), token_dtype="uint32"),
        ("t.bin", 'data.token_dtype = "uint16"'),
    ),
    Case("wide ids read as uint16", tokens(WIDE.astype("<u4"), vocab_size=70_000), ("t.bin", "data.token_dtype")),
    Case("wide ids", tokens(WIDE.astype("<u4"), vocab_size=70_000, token_dtype="uint32"), ids=tuple(WIDE.tolist())),
    Case("big-endian uint16", tokens(IDS.astype(">u2")), ("t.bin", "big-endian")),
    Case("big-endian uint32", tokens(IDS.astype(">u4"), token_dtype="uint32"), ("t.bin", "big-endian")),
    Case("big-endian uint32 read as uint16", tokens(IDS.astype(">u4")), ("t.bin", "data.token_dtype")),
    Case("a big-endian .npy", tokens(npy(IDS.astype(">u2")), "t.npy"), ids=FEW),
    Case("a big-endian .npy of uint32", tokens(npy(IDS.astype(">u4")), "t.npy"), ids=FEW),
    Case("a .npy named .bin", tokens(npy(IDS.astype("u2"))), ids=FEW),
    Case("a .NPY", tokens(npy(IDS.astype("u2")), "T.NPY"), ids=FEW),
    Case("bare ids named .npy", tokens(IDS.astype("<u2"), "t.npy"), ids=FEW),
    Case("a .npy of int64", tokens(npy(IDS), "t.npy"), ("t.npy", "int64", "astype")),
    Case("a .npy of floats", tokens(npy(IDS / 2), "t.npy"), ("t.npy", "float64")),
    Case("a .npy table", tokens(npy(IDS.astype("u2").reshape(60, -1)), "t.npy"), ("t.npy", "(60, 51)", "flat")),
    Case("a .npy of one number", tokens(npy(np.uint16(5)), "t.npy"), ("t.npy", "flat")),
    Case("a .npy of objects", tokens(npy(np.array(["a", None]), allow_pickle=True), "t.npy"), ("t.npy", "damaged")),
    Case("a .npy of nothing", tokens(npy(IDS[:0].astype("u2")), "t.npy"), ("t.npy is empty",)),
    Case("a .npy cut off", tokens(npy(IDS.astype("u2"))[:-100], "t.npy"), ("t.npy is damaged",)),
    Case("a .npy without its header", tokens(npy(IDS.astype("u2"))[:20], "t.npy"), ("t.npy is damaged",)),
    Case(
        "a .npy with a flipped header", tokens(npy(IDS.astype("u2")).replace(b"descr", b"dexcr"), "t.npy"), ("damaged",)
    ),
    Case("a .npy of an unknown version", tokens(b"\x93NUMPY\x09\x00" + b"x" * 99, "t.npy"), ("t.npy is damaged",)),
    Case("an .npz", tokens(_npz(), "t.npz"), ("t.npz is a zip archive",)),
    Case("an .npz named .npy", tokens(_npz(), "t.npy"), ("t.npy is a zip archive",)),
    Case("a .pt", tokens(_zip(), "t.pt"), ("t.pt is a zip archive",)),
    Case("a pickle", tokens(b"\x80\x04\x95" + b"x" * 97), ("t.bin is a pickle",)),
    Case("gzip", tokens(gzip.compress(IDS.astype("<u2").tobytes())), ("t.bin is compressed",)),
    Case("Parquet", parquet({"text": TEXTS}, "t.bin", source="tokens"), ("t.bin is Parquet",)),
    Case("text", tokens(_joined("\n").encode(), vocab_size=60_000), ("t.bin is text", "data.source")),
    Case("JSON lines", tokens(json.dumps(ROWS).encode(), vocab_size=60_000), ("t.bin is text", "data.source")),
    Case("the header of llm.c", tokens(_llm_c(), vocab_size=60_000), ("t.bin has the header of llm.c",)),
    Case("the index of Megatron", tokens(b"MMIDIDX\0\0" + b"\1" * 99), ("t.bin is the index",)),
    Case("an empty file", tokens(b""), ("t.bin is empty",)),
    Case("an odd number of bytes", tokens(b"abc"), ("3 bytes, not whole uint16 ids",)),
    Case("an id above the vocabulary", tokens(np.array([1, 2, 300, 4], "<u2")), ("t.bin", "300 at position 2")),
    Case("an end above the vocabulary", tokens(IDS.astype("<u2"), eos_id=300), ("data.eos_id = 300",)),
    Case("an end that never comes", tokens((IDS + 0).clip(1).astype("<u2"), eos_id=0), ("data.eos_id = 0", "not hold")),
    Case("no end", tokens(IDS.astype("<u2")), said=("the last 20%",), share=True),
    Case("one long document", tokens(UNEVEN.astype("<u2"), eos_id=0), said=("are cut",), share=True),
    Case("the same file to train and to validate on", _same_file, ("data.val_path",)),
    Case("no file to validate on", _missing_validation, ("no file at", "data.val_path")),
    Case("files of two widths", _two_widths, ids=FEW),
    Case("a folder of two files", _two_files, ("data.path", "not 2")),
]

# --- tokenizers --------------------------------------------------------------------------------------------


def _with(tokenizer: Callable[[], Tokenizer], **changes: Any) -> Callable[[Path], Fields]:
    """Return what writes a folder of texts and a tokenizer; `changes` are of its file, or fields of the data."""

    def make(folder: Path) -> Fields:
        content = json.loads(tokenizer().to_str())
        content |= {name: value for name, value in changes.items() if name in content}
        (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
        fields = {name: value for name, value in changes.items() if name not in content}
        return {**text_folder(FOLDER)(folder), "tokenizer": str(folder / "tokenizer.json"), **fields}

    return make


def _bpe(end: str = "<|endoftext|>", prefix_space: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<pad>", end], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def _changed(change: Callable[[Tokenizer], Any]) -> Callable[[], Tokenizer]:
    def make() -> Tokenizer:
        tokenizer = _bpe()
        change(tokenizer)
        return tokenizer

    return make


def _bos(tokenizer: Tokenizer) -> None:
    tokenizer.post_processor = processors.TemplateProcessing(single="<pad> $A", special_tokens=[("<pad>", 0)])


def _word_piece(texts: list[str] = TEXTS) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]", "[SEP]"], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _byte_fallback() -> Tokenizer:
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    for letter in sorted({*"".join(TEXTS).replace(" ", "\u2581").replace("☕", "")}):
        vocabulary.setdefault(letter, len(vocabulary))
    model = models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def _words_with_ends() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.BPEDecoder()
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=["<unk>", "</s>"], end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def _letters() -> Tokenizer:
    """Drop what is not a plain letter, a digit or a space: there is no token for what is unknown."""
    letters = [" ", *"abcdefghijklmnopqrstuvwxyz0123456789"]
    tokenizer = Tokenizer(models.BPE({"</s>": 0} | {letter: 1 + i for i, letter in enumerate(letters)}, []))
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def _folder_of_a_tokenizer(config: str | None) -> Callable[[Path], Fields]:
    def make(folder: Path) -> Fields:
        fields = _with(lambda: _bpe("[THE-END]"))(folder)
        if config is not None:
            (folder / "tokenizer_config.json").write_text(config, encoding="utf-8")
        return fields

    return make


def _tokenizer_of(content: str | bytes) -> Callable[[Path], Fields]:
    def make(folder: Path) -> Fields:
        text_file(content, "tokenizer.json")(folder)
        return {**text_folder(FOLDER)(folder), "tokenizer": str(folder / "tokenizer.json")}

    return make


def _far_id() -> str:
    content = json.loads(_bpe().to_str())
    content["model"]["vocab"]["far"] = 4_000_000_000
    return json.dumps(content)


_BYTE_DECODER = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
_NESTED = {"type": "Sequence", "decoders": [{"type": "Sequence", "decoders": [_BYTE_DECODER]}, {"type": "Fuse"}]}
_PRETOKENIZERS = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
}
WHOLE: dict[str, Any] = {"texts": (*TEXTS,), "bytes_right": True}
TOKENIZER_CASES = [
    Case("byte-level", _with(_bpe), **WHOLE, eos=1),
    Case("truncation", _with(_changed(lambda t: t.enable_truncation(16))), **WHOLE),
    Case("padding", _with(_changed(lambda t: t.enable_padding(length=512))), **WHOLE),
    Case("padding to a multiple", _with(_changed(lambda t: t.enable_padding(pad_to_multiple_of=64))), **WHOLE),
    Case("a token before each text", _with(_changed(_bos)), **WHOLE),
    Case("dropout of merges", _with(_changed(lambda t: setattr(t.model, "dropout", 0.5))), **WHOLE),
    Case(
        "ByteLevel within a Sequence", _with(_bpe, decoder={"type": "Sequence", "decoders": [_BYTE_DECODER]}), **WHOLE
    ),
    Case("ByteLevel within two Sequences", _with(_bpe, decoder=_NESTED, pre_tokenizer=_PRETOKENIZERS), **WHOLE),
    Case("no decoder", _with(_bpe, decoder=None), **WHOLE),
    Case("ByteLevel within a Sequence, no decoder", _with(_bpe, decoder=None, pre_tokenizer=_PRETOKENIZERS), **WHOLE),
    Case("a space before each text", _with(lambda: _bpe(prefix_space=True)), bytes_right=True),
    Case("further tokens of whole words", _with(_changed(lambda t: t.add_tokens(["café ☕"]))), **WHOLE),
    Case("WordPiece", _with(_word_piece), bytes_right=True, eos=1),
    Case("WordPiece without a decoder", _with(_word_piece, decoder=None), bytes_right=True),
    Case(
        "WordPiece with unknown words",
        _with(lambda: _word_piece(["the 0123456789"])),
        said=("unknown",),
        bytes_right=False,
    ),
    Case("byte fallback", _with(_byte_fallback), **WHOLE, eos=2),
    Case("Unigram", _with(_unigram), bytes_right=True, eos=1),
    Case("Unigram without a decoder", _with(_unigram, decoder=None), bytes_right=True),
    Case("marks at the ends of words", _with(_words_with_ends), bytes_right=True),
    Case("letters that fall out", _with(_letters), said=("leaves out",), bytes_right=False),
    Case("no end of a text", _with(lambda: _bpe("[THE-END]")), ("no end-of-text token", "data.eos_id", "[THE-END]")),
    Case("an end named by data.eos_id", _with(lambda: _bpe("[THE-END]"), eos_id=1), eos=1, texts=(*TEXTS,)),
    Case("data.eos_id before the usual name", _with(_bpe, eos_id=0), eos=0),
    Case("an end that the tokenizer does not have", _with(_bpe, eos_id=10**6), ("data.eos_id = 1000000",)),
    Case(
        "an end other than our own tokenizer's", lambda f: {**text_folder(FOLDER)(f), "eos_id": 5}, ("data.eos_id = 5",)
    ),
    Case("an end named beside", _folder_of_a_tokenizer('{"eos_token": "[THE-END]"}'), eos=1),
    Case("an end named beside, in full", _folder_of_a_tokenizer('{"eos_token": {"content": "[THE-END]"}}'), eos=1),
    Case("a damaged file beside", _folder_of_a_tokenizer("{"), ("no end-of-text token",)),
    Case("a list beside", _folder_of_a_tokenizer("[1]"), ("no end-of-text token",)),
    *[
        Case(f"the end {name}", _with(lambda name=name: _bpe(name)), eos=1)  # type: ignore[misc]
        for name in ("<｜end▁of▁sentence｜>", "<|eot_id|>", "<end_of_turn>", "[EOS]", "<|eos|>", "<eod>", "<|return|>")
    ],
    Case("no JSON", _tokenizer_of("no JSON"), ("cannot load data.tokenizer",)),
    Case("JSON of something else", _tokenizer_of('{"a": 1}'), ("cannot load data.tokenizer",)),
    Case("an empty file", _tokenizer_of(""), ("cannot load data.tokenizer",)),
    Case("bytes", _tokenizer_of(b"\xff\0\xfe"), ("cannot load data.tokenizer",)),
    Case("no tokens", _with(lambda: Tokenizer(models.BPE())), ("data.tokenizer", "no tokens")),
    Case("an id of four thousand million", _tokenizer_of(_far_id()), ("data.tokenizer", "4000000000")),
    Case(
        "a folder without one", lambda f: {**text_folder(FOLDER)(f), "tokenizer": str(f / "texts")}, ("data.tokenizer",)
    ),
    Case("a vocabulary without room for bytes", lambda f: {**text_folder(FOLDER)(f), "vocab_size": 100}, ("257",)),
]

CASES = {
    "text": TEXT_CASES,
    "jsonl": JSONL_CASES,
    "parquet": PARQUET_CASES,
    "tokens": TOKEN_CASES,
    "tokenizer": TOKENIZER_CASES,
}
