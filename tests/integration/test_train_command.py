"""`autotune train` as a person uses it: stopped at any moment, gone on with, diverged, and who may read its weights."""

from __future__ import annotations

import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tomli_w
from short_training import small_config

from model.train import train

pytestmark = pytest.mark.usefixtures("one_thread")


def write(folder: Path, speeches: Path, tokens: int = 4096, **sections: object) -> Path:
    config = small_config(speeches, **sections).model_dump(mode="json", exclude_none=True)
    file = folder / "best_config.toml"
    file.write_text(tomli_w.dumps({"trainer": "model.train:train", "tokens": tokens, "config": config}))
    return file


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "autotune", "train", *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_stopped_run_goes_on_with_the_command_that_it_prints(speeches: Path, tmp_path: Path) -> None:
    """Its own length and folder; Ctrl-C is answered at once, long before the next evaluation."""
    file = write(tmp_path, speeches, data={"num_evals": 100, "eval_tokens": 64}, output={"sample_tokens": 0})
    process = start(file.name, "--tokens", "30000", "--folder", "else where", cwd=tmp_path)
    assert process.stdout is not None
    assert "loss" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=200)
    assert process.returncode == 130, rest
    assert "stopping after the next evaluation" in rest

    command = shlex.split(rest.strip().splitlines()[-1].partition("go on with: ")[2])
    assert command[:2] == ["autotune", "train"]
    again = start(*command[2:], cwd=tmp_path)
    text, _ = again.communicate(timeout=250)
    assert again.returncode == 0, text
    assert (tmp_path / "else where" / "export" / "model.safetensors").is_file()
    assert not (tmp_path / "full").exists()


def test_a_second_ctrl_c_ends_it_at_once(speeches: Path, tmp_path: Path) -> None:
    """The training has one evaluation, an hour away."""
    file = write(tmp_path, speeches, tokens=10**9, data={"num_evals": 1}, output={"checkpoint_every_tokens": 1})
    process = start(file.name, cwd=tmp_path)
    kept = tmp_path / "full" / "best_config-1000000000-tokens" / "checkpoints"
    while not list(kept.glob("*.safetensors")):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert "stopping after the next evaluation; Ctrl-C again stops at once" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=100)
    assert process.returncode == 130, text
    assert re.fullmatch(r"stopped at once; .* again by: autotune train best_config\.toml\n", text), text


def test_a_diverged_run_ends_at_its_first_loss_that_is_none(speeches: Path, tmp_path: Path) -> None:
    file = write(tmp_path, speeches, optim={"muon_lr": 1e30, "adamw_lr": 1e30}, data={"num_evals": 20})
    process = start(file.name, cwd=tmp_path)
    text, _ = process.communicate(timeout=200)
    assert process.returncode == 1, text
    assert "the training has diverged: its loss is nan" in text and "Traceback" not in text
    assert text.count("loss nan") == 1
    assert not list(tmp_path.rglob("model.safetensors"))


def test_whatever_a_caller_answers_nothing_diverged_is_exported(speeches: Path, tmp_path: Path) -> None:
    rates = {"muon_lr": 1e30, "adamw_lr": 1e30}
    config = small_config(speeches, optim=rates, output={"dir": str(tmp_path / "out")})
    with pytest.raises(FloatingPointError, match=r"diverged .* nothing is exported"):
        train(config, 2048, lambda point: True)
    assert not (tmp_path / "out" / "export").exists()


@pytest.mark.parametrize(("folder_mode", "mode"), [(0o755, 0o644), (0o700, 0o600), (0o750, 0o640)])
def test_weights_are_as_readable_as_their_folder(speeches: Path, tmp_path: Path, folder_mode: int, mode: int) -> None:
    out = tmp_path / "out"
    for folder in (out / "export", out / "checkpoints"):
        folder.mkdir(parents=True)
        folder.chmod(folder_mode)
    config = small_config(speeches, output={"dir": str(out), "sample_tokens": 0, "checkpoint_every_tokens": 256})
    train(config, 1024, lambda point: True)

    weights = list(out.rglob("*.safetensors"))
    assert len(weights) > 1
    assert {stat.S_IMODE(file.stat().st_mode) for file in weights} == {mode}
