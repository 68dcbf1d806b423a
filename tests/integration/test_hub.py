"""The hub as its real clients meet it: a server of our own answers them as the hub does, faults included."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_client import HubClient
from hub_data import NULL_ROW, OTHER_BYTES, ROWS, SHARDS, document, json_lines, parquet, zstd
from hub_server import HubServer
from tokenizers import Tokenizer

from model.data.tokenizer import END_OF_TEXT, train_bpe

LINES = [document(number) for number in range(5000, 5040)]
WHOLE = [document(shard * 1000 + row) for shard in range(SHARDS) for row in range(ROWS) if row != NULL_ROW]
CARD = """---
configs:
- config_name: web-en
  data_files:
  - {split: train, path: web/train-*}
  - {split: validation, path: web/validation-*}
- config_name: other
  data_files: web/validation-*
---
"""


@pytest.fixture(scope="module")
def published() -> Tokenizer:
    """A tokenizer that does what `AutoTokenizer` would build anew: it lowers the letters."""
    from tokenizers import normalizers

    tokenizer = train_bpe([document(number) for number in range(40)], 600)
    tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


@pytest.fixture(scope="module")
def hub(published: Tokenizer) -> Iterator[HubServer]:
    """A hub with data sets of all kinds."""
    spelling = published.to_str()
    shards = {f"web/train-{shard:05d}.parquet": parquet(shard * 1000) for shard in range(SHARDS)}
    datasets = {
        "org/mix": {"README.md": CARD.encode(), **shards, "web/validation-0.parquet": parquet(90_000)},
        "org/plain": shards,
        "org/lines": {"a.jsonl": b"\xef\xbb\xbf" + json_lines(LINES[:20]), "b.jsonl": json_lines(LINES[20:])},
        "org/halves": {"a.jsonl": json_lines([f"{text} \ud800" for text in LINES])},
        "org/lines-gz": {"a.jsonl.gz": gzip.compress(json_lines(LINES))},
        "org/lines-zst": {"a.jsonl.zst": zstd(json_lines(LINES))},
        "org/texts": {f"{number}.txt": text.encode() for number, text in enumerate(LINES)},
    }
    config = json.dumps({"model_type": "gpt2", "tokenizer_class": "GPT2Tokenizer"}).encode()
    models = {
        "org/tok": {"tokenizer.json": spelling.encode(), "config.json": config},
        "org/endless": {"tokenizer.json": spelling.replace(END_OF_TEXT, "<|other|>").encode()},
        "org/none": {"vocab.txt": b"a\nb\n"},
    }
    # A data set whose name and subset spell the same as another's.
    datasets["org/mix-web"] = {
        "README.md": b"---\nconfigs:\n- {config_name: en, data_files: 'a.jsonl'}\n---\n",
        "a.jsonl": json_lines(LINES),
    }
    with HubServer(datasets, models) as server:
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clients' cache."""
    return tmp_path_factory.mktemp("hf")


@pytest.fixture(scope="module")
def client(hub: HubServer, home: Path) -> Iterator[HubClient]:
    """A process that loads corpora, one after the other."""
    with HubClient(hub.environment(home)) as it:
        yield it


@pytest.fixture(autouse=True)
def healthy(hub: HubServer) -> Iterator[None]:
    """Nothing is wrong with the hub before a test, or after it."""
    yield
    hub.refusal, hub.refused_requests, hub.bytes_per_s, hub.drop_after_bytes = "", None, 0.0, 0


def ids_of(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Each text's ids with the end of the text, sorted."""
    eos_id = tokenizer.token_to_id(END_OF_TEXT)
    return sorted([*tokenizer.encode(text, add_special_tokens=False).ids, eos_id] for text in texts)


def split_ids(loaded: dict[str, Any], eos_id: int = 0) -> list[list[int]]:
    """The documents of both splits, sorted."""
    documents: list[list[int]] = [[]]
    for token_id in loaded["train"] + loaded["val"]:
        documents[-1].append(token_id)
        if token_id == eos_id:
            documents.append([])
    return sorted(documents[:-1])


ALL = {"name": "org/plain", "tokenizer": "org/tok", "max_tokens": 10**6}


@pytest.fixture(scope="module")
def undisturbed(client: HubClient, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What comes of a data set when nothing happens."""
    return client.load(**ALL, cache_dir=str(tmp_path_factory.mktemp("undisturbed")))


def test_the_ids_are_those_of_the_published_tokenizer_and_nulls_are_counted(
    undisturbed: dict[str, Any], published: Tokenizer
) -> None:
    assert split_ids(undisturbed) == ids_of(published, WHOLE)
    assert sum(undisturbed["documents"]) == len(WHOLE)
    nulls, fewer = undisturbed["notices"]
    assert nulls == f'{SHARDS} rows of "org/plain" have no text (null) and were left out'
    num_tokens = len(undisturbed["train"]) + len(undisturbed["val"])
    assert fewer.startswith(f"the text has {num_tokens:,} tokens, fewer than data.max_tokens = 1,000,000")


def test_progress_is_said_with_bytes_tokens_and_what_is_left(undisturbed: dict[str, Any]) -> None:
    said = undisturbed["sentences"]
    assert said[0] == 'looking for the files of "org/plain" on the hub'
    assert any(" of 1M tokens (" in words and " MB fetched at " in words and words.endswith(" left") for words in said)


def test_only_the_text_is_fetched_and_as_many_tokens_kept_as_are_asked_for(
    hub: HubServer, client: HubClient, tmp_path: Path
) -> None:
    before = hub.sent_bytes
    loaded = client.load(**ALL | {"max_tokens": 30_000}, cache_dir=str(tmp_path))
    sent = hub.sent_bytes - before

    assert len(loaded["train"]) + len(loaded["val"]) == 30_000
    assert 0 < len(loaded["val"]) < 6_000
    assert loaded["notices"] == ['1 rows of "org/plain" have no text (null) and were left out']
    # Of each shard the text and its end, in which the columns are described.
    assert sent < SHARDS * ROWS * OTHER_BYTES / 3
    assert list((tmp_path / "hub").iterdir()) == []


def test_a_killed_download_goes_on_where_it_was(
    hub: HubServer, home: Path, client: HubClient, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    fields = ALL | {"cache_dir": str(tmp_path), "piece_tokens": 10_000}
    hub.bytes_per_s = 100_000.0
    with HubClient(hub.environment(home)) as killed:
        killed.ask(**fields)
        while not list(tmp_path.glob("hub/*/000000.json")):
            killed.said()
        killed.process.kill()
        killed.process.wait()
    stray = next(tmp_path.glob("hub/*")) / "000099.data.partial"
    stray.write_bytes(b"half of it")

    hub.bytes_per_s = 0.0
    asked = hub.requests.copy()
    again = client.load(**fields)

    assert again["hash"] == undisturbed["hash"]
    first_shard, last_shard = (
        ("GET", f"/cdn/datasets/org/plain/web/train-{number:05d}.parquet") for number in (0, SHARDS - 1)
    )
    assert hub.requests[first_shard] == asked[first_shard]
    assert hub.requests[last_shard] > asked[last_shard]
    assert list((tmp_path / "hub").iterdir()) == []


def test_cut_connections_and_a_restart_of_the_server_are_gone_through_and_told(
    hub: HubServer, client: HubClient, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    hub.drop_after_bytes = 150_000
    hub.bytes_per_s = 400_000.0
    client.ask(**ALL, cache_dir=str(tmp_path))
    sentences = []
    restarted = False
    while "says" in (line := client.said()):
        sentences.append(line["says"])
        if not restarted and "MB fetched" in line["says"]:
            restarted = True
            hub.stop()
            time.sleep(0.5)
            hub.start()

    assert line["hash"] == undisturbed["hash"]
    assert any("; " in words and "Retry" in words for words in sentences)


def test_a_disk_that_is_too_small_is_named_before_anything_is_fetched(
    hub: HubServer, client: HubClient, tmp_path: Path
) -> None:
    before = hub.sent_bytes
    loaded = client.load(**ALL | {"max_tokens": 10**15}, cache_dir=str(tmp_path))
    assert loaded["exit_code"] == 3
    assert "needs 4,000,000,064 MB of disk in" in loaded["error"]
    assert hub.sent_bytes == before


@pytest.mark.parametrize(
    ("tokenizer", "words"),
    [
        ("org/none", 'data.tokenizer = "org/none": the repository has no tokenizer.json'),
        ("org/endless", "the tokenizer has no end-of-text token"),
        ("org/unknown", 'the hub has no model "org/unknown"'),
        ("a/b/c", "neither a file, nor a folder, nor a name on the hub"),
    ],
)
def test_a_tokenizer_that_cannot_be_used_is_told_before_anything_is_fetched(
    hub: HubServer, client: HubClient, tmp_path: Path, tokenizer: str, words: str
) -> None:
    asked = sum(count for (_, path), count in hub.requests.items() if "org/plain" in path)
    loaded = client.load(**ALL | {"tokenizer": tokenizer}, cache_dir=str(tmp_path))
    assert words in loaded["error"]
    assert sum(count for (_, path), count in hub.requests.items() if "org/plain" in path) == asked


def test_an_end_of_text_that_is_named_is_honoured(client: HubClient, published: Tokenizer, tmp_path: Path) -> None:
    eos_id = published.token_to_id("a")
    fields = ALL | {"tokenizer": "org/endless", "eos_id": eos_id, "max_tokens": 5000}
    loaded = client.load(**fields, cache_dir=str(tmp_path))
    assert loaded["val"][-1] == eos_id


def test_other_splits_can_be_named_and_what_is_not_there_is_told_with_what_is(
    client: HubClient, published: Tokenizer, tmp_path: Path
) -> None:
    mix = {"name": "org/mix", "tokenizer": "org/tok", "max_tokens": 10**6, "cache_dir": str(tmp_path)}
    loaded = client.load(**mix, subset="web-en", split="validation")
    assert split_ids(loaded) == ids_of(published, [document(90_000 + row) for row in range(ROWS) if row != NULL_ROW])

    errors = [
        client.load(**mix, subset="web-en", split="test"),
        client.load(**mix, subset="web-de"),
        client.load(**mix),
        client.load(**mix, subset="web-en", text_field="content"),
    ]
    assert [loaded["exit_code"] for loaded in errors] == [2] * 4
    assert errors[0]["error"].endswith('no split data.split = "test"; its splits: train, validation')
    assert errors[1]["error"].endswith('no subset data.subset = "web-de"; its subsets: web-en, other')
    assert errors[2]["error"].endswith("set data.subset to one of them; its subsets: web-en, other")
    assert 'no text in data.text_field = "content" of hf://datasets/org/mix@' in errors[3]["error"]
    assert errors[3]["error"].endswith("fields that hold text: text, other")


def test_two_datasets_never_share_what_is_kept(client: HubClient, published: Tokenizer, tmp_path: Path) -> None:
    fields = {"max_tokens": 10**6, "cache_dir": str(tmp_path)}
    for tokenizer in ("org/tok", ""):
        client.load(name="org/mix", subset="web-en", tokenizer=tokenizer, **fields)
        loaded = client.load(name="org/mix-web", subset="en", tokenizer=tokenizer, **fields)
        assert sum(loaded["documents"]) == len(LINES)


@pytest.mark.parametrize("name", ["org/lines", "org/lines-gz", "org/lines-zst", "org/texts"])
def test_other_kinds_of_files_are_read_as_documents(
    client: HubClient, published: Tokenizer, tmp_path: Path, name: str
) -> None:
    loaded = client.load(name=name, tokenizer="org/tok", max_tokens=10**6, cache_dir=str(tmp_path))
    assert split_ids(loaded) == ids_of(published, LINES)


def test_halves_of_characters_are_replaced_as_in_local_rows(
    client: HubClient, published: Tokenizer, tmp_path: Path
) -> None:
    loaded = client.load(name="org/halves", tokenizer="org/tok", max_tokens=10**6, cache_dir=str(tmp_path))
    assert split_ids(loaded) == ids_of(published, [f"{text} \ufffd" for text in LINES])


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ("too many requests", "too many requests from this address (status 429), which others may share; set HF_TOKEN"),
        ("gated", 'dataset "org/plain" is gated: accept its terms at http'),
        ("unauthorized", "(status 401): there is none of that name, or it is private"),
        ("proxy", "set HTTPS_PROXY=http://NAME:PASSWORD@HOST:PORT"),
    ],
)
def test_a_refusal_is_told_with_its_cause_and_the_way_out(
    hub: HubServer, client: HubClient, tmp_path: Path, refusal: str, words: str
) -> None:
    # The tokenizer is in the cache by now, and need not be asked for.
    client.load(**ALL | {"max_tokens": 100}, cache_dir=str(tmp_path / "before"))
    hub.refusal = refusal
    loaded = client.load(**ALL, cache_dir=str(tmp_path))
    assert loaded["kind"] == "HubError"
    assert loaded["exit_code"] == 3
    assert words in loaded["error"]


def test_what_hf_download_brings_is_read_without_a_network(
    hub: HubServer, home: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    environment = hub.environment(tmp_path / "hf")
    for arguments in (["org/plain", "--repo-type", "dataset"], ["org/tok", "tokenizer.json"]):
        command = [str(Path(sys.executable).parent / "hf"), "download", *arguments]
        subprocess.run(command, env={"PATH": "", **environment}, check=True, capture_output=True)

    asked = hub.requests.total()
    with HubClient(environment | {"HF_HUB_OFFLINE": "1"}) as offline:
        loaded = offline.load(**ALL, cache_dir=str(tmp_path / "cache"))
        missing = offline.load(**ALL | {"name": "org/lines"}, cache_dir=str(tmp_path / "cache"))

    assert loaded["hash"] == undisturbed["hash"]
    assert hub.requests.total() == asked
    assert missing["exit_code"] == 3
    assert "run `hf download org/lines --repo-type dataset`, bring its cache here (HF_HOME)" in missing["error"]
