"""Loads corpora from the hub that HF_ENDPOINT names, in a process of its own: one JSON line in, one out, for each.

A line in holds the fields of a `DataConfig`, and under "piece_tokens" and "batch_bytes" how many tokens a piece and how
much text a batch holds. A line out holds what came of it, or the error with its exit code, and the sentences that were
said meanwhile.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]


class HubClient:
    """The other side of it; a context manager.

    Args:
        environment: Variables that point it at a hub.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, **environment, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def ask(self, **fields: Any) -> None:
        """Ask for a corpus."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(fields) + "\n")
        self.process.stdin.flush()

    def said(self) -> dict[str, Any]:
        """Return the next line out: a sentence under "says", or the last one with what came of it."""
        assert self.process.stdout is not None
        line: dict[str, Any] = json.loads(self.process.stdout.readline())
        return line

    def load(self, **fields: Any) -> dict[str, Any]:
        """Ask for a corpus and return what came of it, with all sentences."""
        self.ask(**fields)
        sentences = []
        while "says" in (line := self.said()):
            sentences.append(line["says"])
        return line | {"sentences": sentences}


def _main() -> None:
    from model.config import DataConfig
    from model.data import progress
    from model.data.corpus import load
    from model.data.hub import rows
    from model.data.hub.writers import IdsWriter

    progress._EVERY_S = 0.0
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(line: Mapping[str, Any]) -> None:
        out.write(json.dumps(line) + "\n")
        out.flush()

    for line in sys.stdin:
        fields = json.loads(line)
        IdsWriter.piece_amount = fields.pop("piece_tokens", 2**21)
        rows._BATCH_BYTES = fields.pop("batch_bytes", 2**22)
        config = DataConfig.model_validate({"source": "hub"} | fields)
        try:
            corpus = load(config, lambda sentence: tell({"says": sentence}))
        except Exception as error:  # noqa: BLE001 - the test looks at whatever it is
            tell({"error": str(error), "kind": type(error).__name__, "exit_code": getattr(error, "exit_code", None)})
            continue
        tell(
            {
                "train": corpus.train_ids.tolist(),
                "val": corpus.val_ids.tolist(),
                "documents": [corpus.train_documents, corpus.val_documents],
                "notices": list(corpus.notices),
                "hash": corpus.data_hash,
            }
        )


if __name__ == "__main__":
    _main()
