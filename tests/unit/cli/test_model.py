"""The commands that use a trained model, with a user's own trainer: what is found, said and refused."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from autotune.cli.main import app
from autotune.cli.model import find_model
from autotune.core.errors import UserError
from autotune.core.files import write_json

TRAINER = "using_trainer:train"


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run directory of a study with two full runs, the second of which was changed last."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "runs" / "night"
    write_json(root / "spec.json", {"name": "night", "trainer": TRAINER})
    for number, name in enumerate(("trial-0003-800-tokens", "trial-0001-400-tokens")):
        folder = root / "full" / name
        folder.mkdir(parents=True)
        (folder / "weights").write_text(f"model {number}", encoding="utf-8")
        for path in (folder / "weights", folder):
            os.utime(path, (time.time() + number, time.time() + number))
    record = root / "full" / "0000"
    record.mkdir()
    os.utime(record, (time.time() + 5, time.time() + 5))
    return root


def use_default(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def use(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [*arguments, *([] if "--trainer" in arguments else ["--trainer", TRAINER])], stdin)


# --- what is found ---


def test_a_study_means_its_latest_full_run_and_a_path_itself(study: Path) -> None:
    first, second = (study / "full" / name for name in ("trial-0003-800-tokens", "trial-0001-400-tokens"))
    for name, expected in (
        ("night", second),
        (str(study), second),
        (str(first), first),
        (str(first / "weights"), first),
    ):
        path, trainer = find_model(name, Path("runs"), "")
        assert path.absolute() in (expected, expected / "weights")
        assert trainer.name == "model.train:train"
    (first / "more").touch()
    os.utime(first / "more", (time.time() + 10, time.time() + 10))
    assert find_model("night", Path("runs"), "")[0].name == first.name


def test_the_trainer_is_what_the_user_names_or_the_projects_own(study: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for name in ("elsewhere", "night"):
        assert find_model(name, Path("runs"), TRAINER)[1].name == TRAINER
        assert find_model(name, Path("runs"), "")[1].name == "model.train:train"


def test_a_trainer_that_a_folder_names_is_said_and_never_imported(study: Path) -> None:
    answer = use_default("generate", "night", "--prompt", "a")
    assert isinstance(answer.exception, UserError)
    assert "holds no trained model" in str(answer.exception)
    assert "which is code: if you trust it, add --trainer using_trainer:train" in str(answer.exception)


@pytest.mark.parametrize("trainer", ["x; rm -rf ~", "a:b\x1b[31m", ["a"], {"a": 1}, 5, "a" * 5000 + ":b"])
def test_a_trainer_that_is_no_name_is_not_repeated(study: Path, trainer: object) -> None:
    write_json(study / "spec.json", {"trainer": trainer})
    answer = use_default("evaluate", "night")
    assert isinstance(answer.exception, UserError)
    assert "--trainer" not in str(answer.exception)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "null", "\x00"])
def test_a_spec_that_is_none_is_no_fault(study: Path, text: str) -> None:
    (study / "spec.json").write_text(text)
    assert isinstance(use_default("evaluate", "night").exception, UserError)


@pytest.mark.parametrize("command", ["generate", "evaluate"])
def test_a_file_for_a_folder_of_runs_is_said(study: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "file").touch()
    answer = use_default(command, "night", "--out", "file")
    assert answer.exit_code == 2
    assert "Invalid value for '--out': file is a file; name a folder" in answer.output
    assert isinstance(use_default(command, "n" * 5000).exception, UserError)


@pytest.mark.parametrize("setting", [("--temperature", "nan"), ("--temperature", "inf"), ("--seed", "9" * 30)])
def test_numbers_that_mean_nothing_are_refused(study: Path, setting: tuple[str, str]) -> None:
    assert use("generate", "night", "--prompt", "a", *setting).exit_code != 0


@pytest.mark.parametrize("command", ["generate", "evaluate"])
def test_a_device_is_no_option_of_these(study: Path, command: str) -> None:
    assert use_default(command, "night", "--device", "tpu").exit_code == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nigth", "nigth: no such folder, checkpoint or study in runs; `autotune promote STUDY` trains a model"),
        ("empty", "empty has no full run yet; `autotune promote empty` trains one"),
    ],
)
def test_what_is_not_there_is_said_with_what_makes_it(study: Path, name: str, message: str) -> None:
    write_json(study.parent / "empty" / "spec.json", {"trainer": TRAINER})
    with pytest.raises(UserError) as caught:
        find_model(name, Path("runs"), "")
    assert (str(caught.value), caught.value.exit_code) == (message, 2)


# --- generate ---


def test_text_comes_after_its_prompt_and_cannot_steer_the_terminal(study: Path) -> None:
    answer = use("generate", "night", "--prompt", "Once", "--tokens", "7", "--temperature", "0", "--top-k", "3")
    settings = " num_tokens=7 temperature=0.0 top_k=3 seed=0"
    assert answer.stdout == f"Once model 1\N{REPLACEMENT CHARACTER}[31m{settings}\n"
    assert answer.exit_code == 0


def test_the_prompt_may_come_through_a_pipe(study: Path) -> None:
    assert use("generate", "night", stdin="From a pipe\nof two lines\n").stdout.startswith(
        "From a pipe\nof two lines model"
    )
    assert use("generate", "night", stdin="").stdout.startswith(" model 1")
    assert use("generate", "night", "--prompt", "Given", stdin="piped").stdout.startswith("Given model 1")


def test_faults_of_the_trainer_become_the_users(study: Path) -> None:
    (study / "full" / "trial-0001-400-tokens" / "weights").unlink()
    missing = use("generate", "night", "--prompt", "a")
    assert isinstance(missing.exception, UserError)
    assert "no weights; `autotune promote STUDY` or `autotune train CONFIG.toml` trains one" in str(missing.exception)
    assert missing.stdout == ""
    odd = use("generate", str(study / "full" / "trial-0003-800-tokens"), "--prompt", "odd")
    assert str(odd.exception) == "cannot continue this"


@pytest.mark.parametrize(("command", "function"), [("generate", "generate_text"), ("evaluate", "evaluate_weights")])
def test_a_trainer_without_the_function_says_which(study: Path, command: str, function: str) -> None:
    answer = use(command, "night", "--trainer", "fake_trainer:train")
    assert isinstance(answer.exception, UserError)
    assert 'trainer = "fake_trainer:train" ' in str(answer.exception)
    assert f"put a function {function} beside it" in str(answer.exception)


# --- evaluate ---


def test_measures_are_shown_to_people_and_to_programs(study: Path) -> None:
    answer = use("evaluate", "night")
    assert answer.stdout.splitlines() == [
        "tokens         12,345",
        "loss           2.5000",
        "bits per byte  1.2500",
        "text           held out",
    ]
    found = json.loads(use("evaluate", "night", "--json", "--data", "book.txt", "--tokens", "50").stdout)
    assert found == {
        "schema": "autotune.evaluate/1",
        "tokens": 50,
        "loss": 2.5,
        "bits_per_byte": 1.25,
        "text": "book.txt",
    }
