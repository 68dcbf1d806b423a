"""What `autotune submit` writes, and what it refuses before anything is submitted."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tomli_w
import yaml
from typer.testing import CliRunner

from autotune import launchers
from autotune.cli.main import app
from autotune.cli.submit import Submission
from autotune.core.errors import UserError

LAUNCHERS = Path(launchers.__file__).parent
STUDY = {
    "name": "fleet",
    "trainer": "fake_trainer:train",
    "storage": "postgresql://user@host/db",
    "budget": {"tokens": 1000},
    "space": {"lr": {"low": 0.001, "high": 1.0}},
}


@pytest.fixture
def study(tmp_path: Path) -> str:
    file = tmp_path / "fleet.toml"
    file.write_text(tomli_w.dumps(STUDY))
    return str(file)


def printed(*arguments: str) -> str:
    """Returns what is shown."""
    ended = CliRunner().invoke(app, ["submit", "--print", *arguments], catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return ended.stdout


def test_an_array_has_an_element_for_each_process_and_the_options_that_were_given(study: str) -> None:
    script = printed(study, "--slurm", "--workers", "8", "--option=--time=04:00:00", "--", "--hours", "3")
    asked = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]
    assert asked == [
        "--job-name=fleet", "--array=0-7", "--output=fleet-%A-%a.log", "--open-mode=append", "--requeue",
        "--signal=B:TERM@120", "--gpus=1", "--time=04:00:00",
    ]  # fmt: skip
    assert f"{shlex.join([sys.executable, '-m', 'autotune', 'run', study, '--hours', '3'])} &\n" in script
    assert "@" not in script.replace("B:TERM@120", "")
    assert "--gpus" not in printed(study, "--slurm", "--gpus", "0")


def test_a_ray_job_has_a_task_for_each_process(study: str) -> None:
    words = shlex.split(printed(study, "--ray", "--workers", "3", "--gpus", "2", "--option=--address=http://h:8265"))
    program = words.index("--")
    assert words[:4] == ["ray", "job", "submit", "--no-wait"] and words[program - 1] == "--address=http://h:8265"
    assert words[program + 1 :] == ["python", "-m", "autotune.launchers.ray_job", "3", "2", study]


def test_a_study_whose_processes_could_not_meet_is_refused(study: str) -> None:
    Path(study).write_text(tomli_w.dumps({**STUDY, "storage": ""}))
    with pytest.raises(UserError, match='add storage = "postgresql://user@host/database" to the study file'):
        printed(study, "--slurm")


def test_wrong_usage_is_refused_before_a_hundred_processes_would_refuse_it(study: str) -> None:
    ended = CliRunner().invoke(app, ["submit", study, "--slurm", "--print", "--", "--hour", "3"])
    assert ended.exit_code == 2 and "No such option: --hour" in ended.output
    for options in ([], ["--slurm", "--ray"]):
        with pytest.raises(UserError, match="name one scheduler: --slurm or --ray"):
            printed(study, *options)


def test_a_scheduler_that_refuses_is_a_sentence() -> None:
    with pytest.raises(UserError, match=r"ls refused it with exit code 2: .*absent") as refusal:
        Submission(["ls", "/absent"]).submit()
    assert refusal.value.exit_code == 3
    with pytest.raises(UserError, match="there is no command sbatch-absent here: submit on a machine of the cluster"):
        Submission(["sbatch-absent"]).submit()


@pytest.mark.parametrize(
    ("child", "is_signalled", "state", "code", "is_requeued"),
    [
        ("trap 'exit 130' TERM; touch began; while :; do sleep 0.05; done", True, "RUNNING", 0, True),
        ("trap 'exit 130' TERM; touch began; while :; do sleep 0.05; done", True, "CANCELLED", 130, False),
        ("trap 'sleep 0.3; exit 0' TERM; touch began; while :; do sleep 0.05; done", True, "RUNNING", 0, False),
        ("touch began; exec sleep 60", True, "RUNNING", 0, True),
        ("exit 130", False, "RUNNING", 0, False),
        ("exit 3", False, "RUNNING", 3, False),
    ],
    ids=["parked", "cancelled", "done meanwhile", "ended before it began", "parked by a person", "failed"],
)
def test_how_an_element_ends(
    study: str, tmp_path: Path, child: str, is_signalled: bool, state: str, code: int, is_requeued: bool
) -> None:
    """The script itself, with Slurm's two commands as they answer; tests/integration/test_launchers.py has Slurm."""
    script = printed(study, "--slurm")
    command = shlex.join([sys.executable, "-m", "autotune", "run", study])
    (tmp_path / "job.sh").write_text(script.replace(command, shlex.join(["bash", "-c", child])))
    for name, does in {"squeue": f"echo {state}", "scontrol": 'echo "$@" > requeued'}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)

    path = f"{tmp_path}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}
    with subprocess.Popen(["bash", "job.sh"], cwd=tmp_path, env=environment) as job:
        while is_signalled and not (tmp_path / "began").exists():
            time.sleep(0.02)
        if is_signalled:
            job.send_signal(signal.SIGTERM)
        assert job.wait(60) == code

    requeued = tmp_path / "requeued"
    assert requeued.exists() == is_requeued
    assert not is_requeued or requeued.read_text() == "requeue 7_1\n"


def test_the_files_for_containers_and_clouds_run_a_study(study: str) -> None:
    """What they say in their own terms was checked by the tools that read them: see the README beside them."""
    compose = yaml.safe_load((LAUNCHERS / "compose.yaml").read_text())["services"]["worker"]["command"]
    pod = yaml.safe_load((LAUNCHERS / "kubernetes.yaml").read_text())["spec"]["template"]["spec"]
    task = yaml.safe_load((LAUNCHERS / "skypilot.yaml").read_text())["run"]
    commands = [compose, pod["containers"][0]["args"], shlex.split(task.split("-m autotune ")[1])]
    for verb, file, *options in commands:
        assert verb == "run" and Path(file).name == "fleet.toml"
        printed(study, "--slurm", "--", *options)
