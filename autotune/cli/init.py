"""`autotune init`: a study file to begin with, for this machine and a text, or for a trainer of one's own."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

from autotune.cli.options import STUDIES
from autotune.core.errors import UserError

TRAINER = '''\
"""A trainer of one's own: a regression by gradient descent, where any training may stand."""

import numpy as np

metric = {"name": "error", "unit": "K", "budget_unit": "epochs"}  # lower is better, or "direction": "maximize"


def train(config: dict, budget_tokens: int, report):
    """Train for so many epochs, and report an error on held-out data after each tenth of them."""
    data = np.random.default_rng(0)
    inputs = data.normal(size=(600, 8))
    targets = np.tanh(inputs @ data.normal(size=8)) + data.normal(scale=0.3, size=600)

    # All that is random in a training follows from its seed: runs on fresh seeds show what chance does.
    random = np.random.default_rng(config["seed"])
    weights = random.normal(scale=0.1, size=8)
    speed = np.zeros(8)

    for epoch in range(1, budget_tokens + 1):
        rate = config["lr"] * (1 - (epoch - 1) / budget_tokens)
        for rows in np.array_split(random.permutation(500), 10):
            predicted = np.tanh(inputs[rows] @ weights)
            slopes = (predicted - targets[rows]) * (1 - predicted**2)
            speed = config["momentum"] * speed - rate * inputs[rows].T @ slopes / len(rows)
            weights += speed

        if epoch % max(1, budget_tokens // 10) == 0 or epoch == budget_tokens:
            errors = np.tanh(inputs[500:] @ weights) - targets[500:]
            error = float(np.sqrt(np.mean(errors**2)))
            if not report({"epochs": epoch, "error": error}):
                return None  # the trial is stopped: others are ahead of it

    if folder := config["output"]["dir"]:  # a full run keeps what it has made
        np.save(f"{folder}/weights.npy", weights)
    return {"parameters": weights.size}
'''
_TRAINER_STUDY = """\
# A search for the settings of a trainer of one's own: autotune run {path}
name = "{name}"
trainer = "{module}:train"

[budget]
tokens = 40              # of each trial, in the trainer's unit: epochs
trials = 20

[base]                   # the default settings, which the search has to beat
lr = 0.02
momentum = 0.0

[base.output]
dir = ""                 # filled in for a full run

[space]
lr = {{low = 0.003, high = 3.0, log = true}}
momentum = {{low = 0.0, high = 0.95}}
"""
_TEXT_DATA = """\
[base.data]
source = "text"
path = {text}          # a file, a folder or a glob
vocab_size = {vocab_size}
eval_tokens = {eval_tokens}
"""
_OF_THE_EXAMPLES = {"quickstart": (1_024, 16_384), "overnight": (8_192, 204_800)}
"""Vocabulary and held-out tokens for a text of one's own, by the study that is taken as an example. A small model has a
small vocabulary, which its own tokenizer is trained for."""


def of_a_trainer(name: str, trainer: Path) -> list[Path]:
    """Write an example of a trainer and a study for it.

    Args:
        name: Of the study; its file gets it too.
        trainer: The Python file to write.

    Returns:
        What was written.

    Raises:
        UserError: If a file is there already, or no study can have this name or import this file.
    """
    _require_name(name)
    # The study is run in this folder, from where its trainer is imported.
    parts = trainer.with_suffix("").parts
    if trainer.suffix != ".py" or not all(part.isidentifier() for part in parts):
        raise UserError(f"--trainer {trainer}: name a Python file to write in this folder, such as my_trainer.py")

    study = Path(f"{name}.toml")
    content = _TRAINER_STUDY.format(name=name, path=study, module=".".join(parts))
    return _written({trainer: TRAINER, study: content})


def of_a_text(name: str, text: str) -> list[Path]:
    """Write a study that suits this machine: on a CPU it ends in minutes, on a GPU it takes a night.

    Args:
        name: Of the study; its file gets it too.
        text: Path of the text to train on; "" for that of the example.

    Returns:
        What was written.

    Raises:
        UserError: If the file is there already, the text is not, or no study can have this name.
    """
    from autotune.machine.nvml import visible_devices

    _require_name(name)
    if text and not os.path.exists(text) and not glob.glob(text):
        raise UserError(f"--text {text}: there is no such file or folder")

    example = STUDIES / ("overnight.toml" if visible_devices() else "quickstart.toml")
    content = example.read_text(encoding="utf-8")
    content = re.sub(r"\A#.*\n", f"# Made from {example.name} by: autotune init {name}\n", content)
    content = re.sub(r'^name = ".*"', f'name = "{name}"', content, count=1, flags=re.MULTILINE)
    content = re.sub(r'^title = ".*"\n', "", content, count=1, flags=re.MULTILINE)
    if text:
        vocab_size, eval_tokens = _OF_THE_EXAMPLES[example.stem]
        data = _TEXT_DATA.format(text=_in_toml(text), vocab_size=vocab_size, eval_tokens=eval_tokens)
        content = re.sub(r"^\[base\.data\]\n(.+\n)*", lambda _: data, content, count=1, flags=re.MULTILINE)

    return _written({Path(f"{name}.toml"): content})


def _require_name(name: str) -> None:
    from autotune.study.spec import why_no_name

    why = why_no_name(name)
    if why:
        raise UserError(why)


def _in_toml(text: str) -> str:
    import tomli_w

    return tomli_w.dumps({"text": text}).removeprefix("text = ").rstrip("\n")


def _written(contents: dict[Path, str]) -> list[Path]:
    for path in contents:
        if path.exists():
            raise UserError(f"{path} is there already, and is left as it is; choose another name")

    for path, content in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return list(contents)
