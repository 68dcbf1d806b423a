"""Data are made ready and checked before anything is trained, and a study is held to those that it was begun with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from autotune.cli.main import app
from autotune.core.errors import UserError
from autotune.core.files import write_json
from autotune.night.session import Options, Session
from autotune.store.run_directory import RunDirectory
from autotune.store.study_record import read_study
from autotune.study.study_file import load

STUDY = """name = "held"
trainer = "preparing_fake_trainer:train"
[budget]
tokens = 100_000
trials = 2
[base.data]
path = "text.txt"
[space]
lr = {low = 0.001, high = 0.1, log = true}
[sampler]
name = "random"
[pruner]
name = "none"
[finals]
finalists = 0
"""


def session(said: list[str] | None = None, *changes: str) -> Session:
    Path("held.toml").write_text(STUDY)
    say = (lambda line: None) if said is None else said.append
    return Session(load(Path("held.toml"), changes), Options(Path("runs"), device="cpu", say=say))


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hardware: dict[str, Any]) -> None:
    monkeypatch.chdir(tmp_path)
    write_json(RunDirectory(Path("runs/held")).hardware, hardware)


def test_data_that_cannot_be_used_end_with_their_place_before_the_study_is_stored() -> None:
    with pytest.raises(UserError, match=r"held\.toml:7 base\.data\.path: no file at text\.txt") as raised:
        session().work()
    assert raised.value.exit_code == 2
    assert not Path("runs/held/spec.json").exists()


def test_a_study_goes_on_with_the_data_that_it_was_begun_with_and_with_no_others() -> None:
    Path("text.txt").write_text("one")
    said: list[str] = []
    assert session(said).work() == 0
    assert any("configurations are ready" in line for line in said)
    configs = [trial.result.config for trial in read_study(Path("runs/held")).trials if trial.result]
    assert {len(config["data"]["expected_hash"]) for config in configs} == {64}

    Path("text.txt").write_text("another")
    with pytest.raises(UserError, match="data have changed since held was begun") as raised:
        session(None, "budget.trials=4").work()
    assert raised.value.exit_code == 2
    with pytest.raises(UserError, match="data have changed since held was begun"):
        session().promote(200_000, None)

    Path("text.txt").write_text("one")
    assert session(None, "budget.trials=4").work() == 0
    assert len(read_study(Path("runs/held")).trials) == 4


def test_data_that_are_searched_are_all_checked_and_held_to_no_hash() -> None:
    for name in ("text.txt", "b.txt"):
        Path(name).write_text(name)
    change = 'space."data.path".choices=["text.txt", "b.txt"]'
    Path("b.txt").rename("c.txt")
    with pytest.raises(UserError, match=r"no file at b\.txt"):
        session(None, change).work()

    Path("c.txt").rename("b.txt")
    assert session(None, change, "budget.trials=6").work() == 0
    trials = [trial.result for trial in read_study(Path("runs/held")).trials if trial.result]
    assert {trial.config["data"]["expected_hash"] for trial in trials} == {""}
    assert {trial.config["data"]["path"] for trial in trials} == {"text.txt", "b.txt"}


def test_a_text_that_changes_during_the_night_is_in_no_ranking(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("text.txt").write_text("one")
    assert session().work() == 0
    monkeypatch.setattr(
        "autotune.night.session.prepare_study", lambda study, say, preparing: {}
    )  # as if it came afterwards
    Path("text.txt").write_text("another")
    with pytest.raises(UserError):
        session(None, "budget.trials=9", "limits.crashes=1").work()
    trials = read_study(Path("runs/held")).trials
    assert len([trial for trial in trials if trial.loss is not None]) == 2


ROWS = '{"text": "the first row"}\n{"text": 5}\n'
REAL = """name = "real"
[budget]
tokens = 8192
trials = 1
[base.model]
num_layers = 1
d_model = 32
num_heads = 2
num_kv_heads = 1
d_ff = 32
seq_len = 32
[base.data]
source = "jsonl"
path = "rows.jsonl"
vocab_size = 300
[space]
"optim.muon_lr" = {low = 0.003, high = 0.1, log = true}
"""


@pytest.mark.parametrize("command", ["run", "plan", "train"])
def test_the_trainers_own_data_are_told_by_file_row_and_setting(command: str) -> None:
    Path("rows.jsonl").write_text(ROWS)
    Path("real.toml").write_text(REAL)
    Path("best.toml").write_text(
        'trainer = "model.train:train"\ntokens = 8192\n'
        + REAL[REAL.index("[base.model]") :].split("[space]")[0].replace("[base.", "[config.")
    )
    file = "best.toml" if command == "train" else "real.toml"
    result = CliRunner().invoke(app, [command, file])

    assert isinstance(result.exception, UserError)
    assert result.exception.exit_code == 2
    assert 'rows.jsonl:2: data.text_field = "text" is a number in this row' in str(result.exception)
    assert file in str(result.exception)
    assert "profiling" not in result.output


def test_a_budget_of_one_batch_is_refused() -> None:
    Path("rows.jsonl").write_text("".join(f'{{"text": "row {number} {"of words " * 40}"}}\n' for number in range(40)))
    Path("real.toml").write_text(REAL.replace("8192", "700"))
    result = CliRunner().invoke(app, ["run", "real.toml"])
    assert "nothing would be trained; give more than 768 tokens" in str(result.exception)
