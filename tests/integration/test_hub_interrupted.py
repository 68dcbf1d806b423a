"""A text of the hub whose fetching is interrupted, by Ctrl-C or a kill: the next run goes on, nothing is doubled."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hub_client import ROOT, HubClient
from hub_data import SHARDS, document, json_lines, parquet, zstd
from hub_server import HubServer
from short_training import small_config

from model.data.tokenizer import train_bpe

SMALL = {"piece_tokens": 3_000, "batch_bytes": 5_000}
# The command line with pieces of a few documents, which says each step.
DRIVER = f"""
from model.data import progress
from model.data.hub import rows
from model.data.hub.writers import IdsWriter
IdsWriter.piece_amount, rows._BATCH_BYTES, progress._EVERY_S = {SMALL["piece_tokens"]}, {SMALL["batch_bytes"]}, 0.0
from autotune.cli.main import main
main()
"""
PATIENCE_S = 200.0


def _lines(first: int) -> bytes:
    """Returns rows, some of which have no text, and lines without rows."""
    written = json_lines([document(first + number) for number in range(400)])
    for number in range(400, 450):
        written += b'{"text": null}\n\n' + json_lines([document(first + number)])
    return written


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    """A hub with a dataset of Parquet, two of compressed lines, and a tokenizer."""
    spelling = train_bpe([document(number) for number in range(40)], 600).to_str()
    datasets = {
        "org/plain": {f"train-{shard:05d}.parquet": parquet(shard * 1000) for shard in range(SHARDS)},
        "org/gz": {f"{shard}.jsonl.gz": gzip.compress(_lines(shard * 1000)) for shard in range(2)},
        "org/zst": {f"{shard}.jsonl.zst": zstd(_lines(shard * 1000)) for shard in range(2)},
    }
    with HubServer(datasets, {"org/tok": {"tokenizer.json": spelling.encode()}}) as server:
        yield server


@pytest.fixture(scope="module")
def environment(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What points the clients at the hub."""
    return hub.environment(tmp_path_factory.mktemp("hf"))


@pytest.fixture(scope="module")
def client(environment: dict[str, str]) -> Iterator[HubClient]:
    """A process that loads corpora, one after the other."""
    with HubClient(environment) as it:
        yield it


@pytest.fixture(autouse=True)
def healthy(hub: HubServer) -> Iterator[None]:
    """The hub is quick before a test, and after it."""
    yield
    hub.bytes_per_s = 0.0


def _pieces(cache: Path) -> list[Path]:
    return sorted(cache.glob("hub/*/[0-9]*.json"))


@pytest.mark.parametrize(
    ("command", "bytes_per_s"), [("run", 150_000.0), pytest.param("train", 0.0, marks=pytest.mark.thorough)]
)
def test_ctrl_c_while_a_text_is_fetched_or_tokenised(
    hub: HubServer, environment: dict[str, str], client: HubClient, tmp_path: Path, command: str, bytes_per_s: float
) -> None:
    """The slow hub is waited for; of a quick one everything is there, and the time goes into tokenising."""
    fields: dict[str, Any] = {"source": "hub", "name": "org/plain", "tokenizer": "org/tok", "max_tokens": 10**6}
    config = small_config(tmp_path, data={**fields, "cache_dir": str(tmp_path / "cache")}, output={"sample_tokens": 0})
    settings = config.model_dump(mode="json", exclude_none=True)
    trained = {"trainer": "model.train:train", "tokens": 4096, "config": settings}
    study = {
        "name": "study",
        "budget": {"tokens": 4096, "trials": 2},
        "base": {key: settings[key] for key in ("model", "data", "system")},
    }
    study["space"] = {"optim.muon_lr": {"low": 0.01, "high": 0.1}}
    (tmp_path / "best_config.toml").write_text(tomli_w.dumps(trained))
    (tmp_path / "study.toml").write_text(tomli_w.dumps(study))

    def start(*arguments: str) -> subprocess.Popen[str]:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        return subprocess.Popen(
            [sys.executable, "-c", DRIVER, *arguments],
            cwd=tmp_path,
            env={**os.environ, **environment, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    hub.bytes_per_s = bytes_per_s
    process = start("run", "study.toml", "--device", "cpu") if command == "run" else start("train", "best_config.toml")
    while not _pieces(tmp_path / "cache") and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, text
    assert text.splitlines()[-1] == "stopped while the data were made ready; nothing is lost: run again"
    assert "Traceback" not in text and "evaluation" not in text
    assert _pieces(tmp_path / "cache")

    hub.bytes_per_s = 0.0
    again = start("train", "best_config.toml")
    text, _ = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, text
    first = next(line for line in text.splitlines() if line.startswith('fetching "org/plain"'))
    assert '"org/plain": 0 of' not in first
    undisturbed = client.load(**settings["data"] | {"cache_dir": str(tmp_path / "undisturbed")})
    assert client.load(**settings["data"])["hash"] == undisturbed["hash"]


@pytest.mark.parametrize("name", ["org/gz", pytest.param("org/zst", marks=pytest.mark.thorough)])
def test_a_compressed_shard_that_is_read_again_from_its_start(
    environment: dict[str, str], client: HubClient, tmp_path: Path, name: str
) -> None:
    fields = {"name": name, "tokenizer": "org/tok", "max_tokens": 10**6, **SMALL}
    undisturbed = client.load(**fields, cache_dir=str(tmp_path / "undisturbed"))

    rows = set()
    for number in (2, 40):
        with HubClient(environment) as killed:
            killed.ask(**fields, cache_dir=str(tmp_path))
            while len(_pieces(tmp_path)) < number:
                assert "says" in killed.said()
            killed.process.kill()
            killed.process.wait()
        shard, row = json.loads(_pieces(tmp_path)[-1].read_text())["next"]
        assert row, "killed between two shards"
        rows.add((shard, row))
    assert len(rows) == 2

    again = client.load(**fields, cache_dir=str(tmp_path))
    assert (again["train"], again["val"]) == (undisturbed["train"], undisturbed["val"])
    assert again["notices"] == undisturbed["notices"]
