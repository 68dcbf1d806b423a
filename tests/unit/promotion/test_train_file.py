"""One configuration file, trained: what is said, where it ends, and what is refused before it begins."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
from pathlib import Path

import pytest

from autotune.core.errors import UserError
from autotune.promotion.train_file import train_file

CONFIG = """
trainer = "fake_trainer:train"
tokens = 8000

[config]
evaluations = 5
layers = 2

[config.output]
dir = ""
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "best_config.toml"
    file.write_text(CONFIG)
    return file


def trained(path: Path, tokens: int | None = None, folder: Path | None = None) -> tuple[int, list[str]]:
    said: list[str] = []
    return train_file(path, tokens, folder, said.append).exit_code, said


def test_the_file_can_be_trained(path: Path) -> None:
    code, said = trained(path)
    assert code == 0
    assert [line.split()[0] for line in said[:-1]] == ["20%", "40%", "60%", "80%", "100%"]
    assert said[-1] == f"done: {path.parent / 'full' / 'best_config-8000-tokens'}"


def test_the_trainer_is_told_where_its_settings_come_from(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    tables = '[config.output]\ndir = ""\nprovenance = []\n[provenance]\nstudy = "night"\n'
    path.write_text(f'trainer = "odd_trainers:keeps_its_config"\ntokens = 10\n{tables}')
    assert trained(path, folder=tmp_path)[0] == 0
    lines = ["study: night", "trained from: mine.toml, which may have been edited since it was written"]
    output = {"dir": str(tmp_path), "provenance": lines}
    assert json.loads((tmp_path / "config.json").read_text()) == {"output": output, "seed": 0}


def test_a_full_disk_is_told_with_its_folder_and_the_way_out(path: Path) -> None:
    path.write_text(path.read_text().replace("layers = 2", 'fault = "full-disk"'))
    with pytest.raises(UserError, match="free some space and run again, which goes on from the last") as told:
        trained(path)
    assert str(told.value).startswith(f"{path.parent}/full/best_config-8000-tokens: no space left on the disk; ")
    assert told.value.exit_code == 3


def test_an_edited_file_trains_with_the_edit_and_in_the_folder_given(path: Path, tmp_path: Path) -> None:
    path.write_text(path.read_text().replace("evaluations = 5", "evaluations = 2"))
    code, said = trained(path, tokens=50, folder=tmp_path / "elsewhere")
    assert (code, len(said), said[-1]) == (0, 3, f"done: {tmp_path / 'elsewhere'}")


def test_ctrl_c_stops_after_the_evaluation_and_names_the_way_on(path: Path) -> None:
    said: list[str] = []
    before = signal.getsignal(signal.SIGINT)

    def say(line: str) -> None:
        said.append(line)
        if len(said) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    assert train_file(path, None, None, say).exit_code == 130
    assert said[2:] == [
        "stopping after the next evaluation; Ctrl-C again stops at once",
        f"stopped; go on with: autotune train {path}",
    ]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("replacement", "message"),
    [
        (("tokens = 8000", 'tokens = "many"'), "tokens is 'many'; write how many tokens to train on"),
        (("tokens = 8000", "tokens = 0"), "tokens is 0; write how many tokens to train on"),
        (("tokens = 8000", "tokens = true"), "tokens is True; write how many"),
        (("tokens = 8000", f"tokens = 1{'0' * 30}"), "write how many tokens to train on"),
        (("tokens = 8000", f"tokens = 1{'0' * 5000}"), "cannot be read as TOML: Exceeds the limit"),
        (("tokens = 8000", f"tokens = {'[' * 5000}"), "cannot be read as TOML"),
        (("tokens = 8000\n", ""), "tokens is missing; a best_config.toml has trainer, tokens and config"),
        (("[config", "[confg"), "config is missing"),
        (("tokens = 8000", "tokens = "), "cannot be read as TOML: Invalid value (at line"),
        (("layers = 2", 'layers = "two"\nlrr = 1'), "config.layers: Input should be a valid integer"),
        (("layers = 2", 'layers = "two"\nlrr = 1'), "config.lrr: Extra inputs are not permitted"),
        (('"fake_trainer:train"', '"fake_trainr:train"'), 'trainer = "fake_trainr:train": cannot import fake_trainr'),
    ],
)
def test_a_file_that_was_edited_wrongly_is_told_why(path: Path, replacement: tuple[str, str], message: str) -> None:
    text = path.read_text()
    assert replacement[0] in text
    path.write_text(text.replace(*replacement))
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        trained(path)
    assert caught.value.exit_code == 2


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file; `autotune run` writes a best_config"):
        trained(tmp_path / "best_config.toml")


@pytest.mark.parametrize("count", [1, 2])
def test_the_way_on_has_the_length_and_the_folder(path: Path, tmp_path: Path, count: int) -> None:
    said: list[str] = []
    folder = tmp_path / "else where"

    def say(line: str) -> None:
        said.append(line)
        if "loss" in line:
            for _ in range(count):
                os.kill(os.getpid(), signal.SIGINT)

    assert train_file(path, 50, folder, say).exit_code == 130
    words = shlex.split(said[-1].partition(": ")[2])
    assert words == ["autotune", "train", str(path), "--tokens", "50", "--folder", str(folder)]
    assert "stopped at once" in said[-1] or count == 1


@pytest.mark.parametrize("loss", ["nan", "inf", "-inf"])
def test_a_loss_that_is_no_number_ends_it(tmp_path: Path, loss: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'trainer = "odd_trainers:diverges"\ntokens = 10\n[config]\nloss = "{loss}"\n')
    said: list[str] = []
    with pytest.raises(UserError, match=f"the training has diverged: its loss is {loss} after 5 tokens") as caught:
        train_file(path, None, None, said.append)
    assert caught.value.exit_code == 1
    assert len(said) == 1


def test_a_file_is_no_folder(path: Path, tmp_path: Path) -> None:
    for folder in (path, path / "inside"):
        with pytest.raises(UserError, match="is a file; name a folder, there or not") as caught:
            trained(path, folder=folder)
        assert caught.value.exit_code == 2
