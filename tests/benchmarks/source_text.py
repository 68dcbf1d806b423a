"""A long text of token ids: the Python source that is installed on a machine, with other texts mixed in by documents.

usage: python tests/benchmarks/source_text.py TOKENIZER.json FOLDER [--train A.bin ...] [--val B.bin ...]

Written are FOLDER/train.bin and FOLDER/val.bin (uint16, ends of text 50256). Whole packages are held out. Of what is
held out each text has as much as the smallest of them, so that none decides alone.
"""

from __future__ import annotations

import argparse
import hashlib
import sysconfig
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

END_OF_TEXT = 50_256
_BYTES = range(500, 200_000)
"""Sizes of files that are taken: smaller ones say nothing, larger ones are tables."""
_HELD_OUT = 10
"""Packages in 256 that are held out, by the first byte of a hash of their names."""
_AT_A_TIME = 2_000
Ids = NDArray[np.uint16]


def source_files(roots: Sequence[Path]) -> dict[bool, list[str]]:
    """Return the text of each Python file once, by whether its package is held out."""
    seen: set[str] = set()
    texts: dict[bool, list[str]] = defaultdict(list)
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            text = path.read_text(encoding="utf-8", errors="replace")
            if len(text) not in _BYTES or "\ufffd" in text or text in seen:
                continue

            seen.add(text)
            package = path.relative_to(root).parts[0]
            texts[hashlib.sha256(package.encode()).digest()[0] < _HELD_OUT].append(text)
    return texts


def token_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> Ids:
    """Return the ids of all texts, each with its end."""
    parts: list[Ids] = []
    for start in range(0, len(texts), _AT_A_TIME):  # all at once would need many times their memory
        encoded = tokenizer.encode_batch_fast(list(texts[start : start + _AT_A_TIME]), add_special_tokens=False)
        parts += [np.array([*each.ids, END_OF_TEXT], dtype=np.uint16) for each in encoded]
    return np.concatenate(parts)


def mixed(texts: Sequence[Ids], seed: int = 0) -> Ids:
    """Return the documents of all texts in one order drawn at random."""
    documents: list[Ids] = []
    for ids in texts:
        ends = np.flatnonzero(ids == END_OF_TEXT) + 1
        documents += [each for each in np.split(ids, ends) if each.size]
    order = np.random.default_rng(seed).permutation(len(documents))
    return np.concatenate([documents[at] for at in order])


def main() -> None:
    """Write the two files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("folder", type=Path)
    for name in ("--train", "--val"):
        parser.add_argument(name, type=Path, nargs="*", default=[])
    args = parser.parse_args()

    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    texts = source_files([Path(sysconfig.get_paths()[name]) for name in ("purelib", "stdlib")])
    train, val = ([np.fromfile(path, dtype=np.uint16) for path in paths] for paths in (args.train, args.val))
    train.append(token_ids(tokenizer, texts[False]))
    val.append(token_ids(tokenizer, texts[True]))

    args.folder.mkdir(parents=True, exist_ok=True)
    least = min(map(len, val))
    for name, ids in (("train", mixed(train)), ("val", mixed([each[:least] for each in val]))):
        ids.tofile(args.folder / f"{name}.bin")
        print(f"{args.folder / name}.bin: {len(ids):,} tokens")


if __name__ == "__main__":
    main()
