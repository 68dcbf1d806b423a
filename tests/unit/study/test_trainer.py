"""Trainers by name: the type of their config and what is said when they cannot be used."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from autotune.core.errors import UserError
from autotune.core.metric import Metric
from autotune.study.errors import StudyFileError
from autotune.study.study_file import load
from autotune.study.trainer import Trainer, load_trainer, reported


def test_a_dataclass_is_completed_and_handed_over_as_one() -> None:
    trainer = load_trainer("odd_trainers:with_dataclass")
    assert trainer.complete({"layers": 3}) == {"lr": 0.1, "layers": 3}
    assert trainer.run({"lr": 0.5}, 10, lambda point: True) == {"type": "Settings", "lr": 0.5}
    with pytest.raises(ValidationError):
        trainer.complete({"layers": "three"})


def test_a_plain_mapping_gets_a_seed_and_is_else_taken_as_it_is_and_no_facts_are_no_fault() -> None:
    trainer = load_trainer("odd_trainers:with_mapping")
    assert trainer.complete({"any": {"thing": 1}}) == {"any": {"thing": 1}, "seed": 0}
    assert trainer.complete({"seed": 7}) == {"seed": 7}
    assert trainer.run({"any": 1}, 10, lambda point: True) == {}


def test_a_pydantic_model_is_completed() -> None:
    assert load_trainer("fake_trainer:train").complete({"lr": 0.5})["output"] == {"dir": ""}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("odd_trainers", 'write it as "package.module:function"'),
        (":train", 'write it as "package.module:function"'),
        ("odd_trainers:", 'write it as "package.module:function"'),
        ("no_such_module:train", "cannot import no_such_module: No module named 'no_such_module'"),
        ("broken_trainer:train", "cannot import broken_trainer: NameError: name 'UNDEFINED_NAME' is not defined"),
        ("odd_trainers:printz", 'odd_trainers has no function printz (did you mean "prints"?)'),
        ("bare_trainer:LENGTH", "LENGTH is not a function; it is 3"),
        ("bare_trainer:train", "annotate its first parameter with the type of its config"),
        ("odd_trainers:no_parameters", "it must take three arguments: config, budget_tokens, report"),
        ("odd_trainers:unresolved", "the type of its config cannot be used: name 'Decimal' is not defined"),
        ("odd_trainers:opaque", "the type of its config cannot be used: Unable to generate pydantic-core schema"),
    ],
)
def test_a_trainer_that_cannot_be_used_is_told_why(name: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(f'trainer = "{name}": {message}')) as caught:
        load_trainer(name)
    assert caught.value.exit_code == 2


def test_the_current_folder_is_importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_trainer.py").write_text(
        "def train(config: dict, budget_tokens, report):\n    return {'mine': 1}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert load_trainer("my_own_trainer:train").run({}, 1, lambda point: True) == {"mine": 1}


@pytest.mark.parametrize("trainer", ["odd_trainers:lenient", "odd_trainers:with_dataclass"])
def test_a_base_key_that_the_config_type_would_ignore_is_a_fault(tmp_path: Path, trainer: str) -> None:
    path = tmp_path / "night.toml"
    path.write_text(
        f'name = "night"\ntrainer = "{trainer}"\n[budget]\ntokens = 10\n[base]\nlrr = 0.1\n'
        "[space]\nlr = {low = 0.01, high = 1.0}\n"
    )
    with pytest.raises(StudyFileError) as caught:
        load(path)
    assert str(caught.value) == f'{path}:6 base.lrr: the trainer has no setting "lrr" (did you mean "lr"?)'


# --- what a trainer says its settings are ---


def test_a_trainer_that_says_nothing_has_the_customary_names() -> None:
    trainer = load_trainer("fake_trainer:train")
    assert trainer.path_of("seed") == "seed" and trainer.path_of("num_evals") == "data.num_evals"
    assert trainer.by_path({"device": "cpu", "seed": 3}) == {"system.device": "cpu", "seed": 3}
    assert "output." in trainer.untrained_settings


def test_a_trainer_has_the_settings_that_it_names_and_no_others() -> None:
    trainer = load_trainer("own_names_trainer:train")
    assert trainer.path_of("seed") == "run.rng" and trainer.path_of("dtype") is None
    assert trainer.by_path({"seed": 3, "dtype": "fp32"}) == {"run.rng": 3}


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ("['seed']", "its setting_roles must be a mapping of roles; they are ['seed']"),
        ("{'sed': 'seed'}", 'its setting_roles name an unknown role "sed"; the roles are seed, device, '),
        ("{'seed': 3}", "its setting_roles give seed as 3; write a dotted path"),
    ],
)
def test_roles_that_cannot_be_used_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, roles: str, message: str
) -> None:
    name = f"roles_{abs(hash(roles))}"
    (tmp_path / f"{name}.py").write_text(
        f"setting_roles = {roles}\ndef train(config: dict, budget_tokens, report): pass\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    with pytest.raises(UserError, match=re.escape(f'trainer = "{name}:train": {message}')) as caught:
        load_trainer(f"{name}:train")
    assert caught.value.exit_code == 2


def trainer_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, declared: str) -> Trainer:
    (tmp_path / "declaring.py").write_text(f"{declared}\n\ndef train(config: dict, budget_tokens, report): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "declaring", raising=False)
    return load_trainer("declaring:train")


def test_a_trainer_without_a_metric_reports_a_loss(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert trainer_of(monkeypatch, tmp_path, "").metric == Metric()
    assert trainer_of(monkeypatch, tmp_path, "def metric(): ...").metric == Metric()
    assert load_trainer("model.train:train").metric.of_text


def test_a_declared_metric_is_read_and_reported_under_the_engines_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    declared = (
        'metric = {"name": "r2", "direction": "maximize", "budget_unit": "epochs", "also": {"mae": "mean error"}}'
    )
    metric = trainer_of(monkeypatch, tmp_path, declared).metric
    assert metric == Metric("r2", maximize=True, budget_unit="epochs", also={"mae": "mean error"})
    assert reported(metric, {"epochs": 3, "r2": 0.75, "mae": 2}) == {"tokens_seen": 3, "val_loss": -0.75, "mae": 2}
    with pytest.raises(ValueError, match=r"^the trainer reported no r2; report\(\.\.\.\) needs both"):
        reported(metric, {"epochs": 3})
    with pytest.raises(ValueError, match="reported no tokens_seen and no val_loss;"):
        reported(Metric(), {"mae": 2})
    assert reported(metric, {"tokens_seen": 3, "val_loss": 0.75}) == {"tokens_seen": 3, "val_loss": -0.75}
    assert reported(Metric(), {"tokens": 3, "val_loss": 1, "loss": 2}) == {"tokens_seen": 3, "val_loss": 1, "loss": 2}


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ('metric = {"nmae": "r2"}', "nmae: Extra inputs are not permitted; write a mapping with some of name, unit, "),
        ('metric = {"direction": "up"}', "direction: Input should be 'minimize' or 'maximize'"),
        ("metric = 3", "its metric is 3: it: "),
        ('metric = {"direction": "maximize", "of_text": True}', "is a cross-entropy (of_text), which is minimised"),
    ],
)
def test_a_metric_that_says_nothing_sound_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, declared: str, words: str
) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        trainer_of(monkeypatch, tmp_path, declared)
