"""A text of Python source for benchmarks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from source_text import END_OF_TEXT, mixed, source_files


def test_documents_are_mixed_whole() -> None:
    first = np.array([1, 2, END_OF_TEXT, 3, END_OF_TEXT], dtype=np.uint16)
    second = np.array([4, 5, 6], dtype=np.uint16)  # its last one has no end
    together = mixed([first, second]).tolist()
    assert sorted(together) == sorted([*first, *second])
    places = [together.index(start) for start in (1, 3, 4)]
    assert [together[at : at + size] for at, size in zip(places, (3, 2, 3), strict=True)] == [
        [1, 2, END_OF_TEXT],
        [3, END_OF_TEXT],
        [4, 5, 6],
    ]


def test_each_file_is_taken_once_and_packages_are_held_out_whole(tmp_path: Path) -> None:
    for package in range(200):
        folder = tmp_path / f"package{package}"
        folder.mkdir()
        for name in ("a", "b"):
            (folder / f"{name}.py").write_text(f"{package:03} " * 200)  # twice the same
        (folder / "small.py").write_text("x = 1")
    texts = source_files([tmp_path, tmp_path])
    assert sorted(texts[False] + texts[True]) == sorted(f"{package:03} " * 200 for package in range(200))
    assert 0 < len(texts[True]) < len(texts[False])
