"""The study files that `autotune init` writes."""

from __future__ import annotations

import contextlib
import tomllib
from pathlib import Path

import pytest

from autotune.cli.init import of_a_text, of_a_trainer
from autotune.study.study_file import load


@pytest.mark.parametrize("text", ["book[1].txt", 'a "quoted" book.txt', "back\\slash.txt", "bücher"])
def test_a_text_may_have_any_name(text: str, tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        Path(text).touch()
        [written] = of_a_text("mine", text)
        data = tomllib.loads(written.read_text(encoding="utf-8"))["base"]["data"]

    assert data["source"] == "text" and data["path"] == text


def test_a_trainer_in_a_folder_below_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    with contextlib.chdir(tmp_path):
        trainer, study = of_a_trainer("mine", Path("of_init/my_trainer.py"))
        assert load(study).trainer.name == "of_init.my_trainer:train" and trainer.is_file()
