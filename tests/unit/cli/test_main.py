"""The command line: quick help, exit codes, and text that cannot steer a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from study_case import make_queue, make_study, result

from autotune.cli import options
from autotune.core.errors import UserError
from autotune.core.text import plain, say
from autotune.store.run_directory import RunDirectory

ROOT = Path(__file__).parents[3]
VERBS = (
    "doctor",
    "profile",
    "plan",
    "run",
    "status",
    "stop",
    "steer",
    "report",
    "watch",
    "compare",
    "timeline",
    "promote",
    "train",
    "generate",
    "evaluate",
    "clone",
    "schema",
)
HEAVY = ("torch", "optuna", "pandas", "numpy", "scipy", "scipy.stats", "scipy.optimize", "plotly", "sqlalchemy")
# Does something and then says on stderr which of the heavy packages that has imported.
PROBE = """
import sys
import tomllib
heavy = sys.argv.pop().split(",")
try:
    {statement}
finally:
    sys.stderr.write(" ".join(name for name in heavy if name in sys.modules))
"""


def imported(statement: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a statement in a new process; its stderr names the heavy packages it imported."""
    return subprocess.run(
        [sys.executable, "-c", PROBE.format(statement=statement), *arguments, ",".join(HEAVY)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def command(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs `autotune` as a person would."""
    code = "from autotune.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def helps() -> dict[str, subprocess.CompletedProcess[str]]:
    """The help of every verb, and of the whole under ""."""

    def ask(verb: str) -> subprocess.CompletedProcess[str]:
        return imported("from autotune.cli.main import main; main()", *([verb] if verb else []), "--help")

    names = ("", *VERBS)
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(ask, names), strict=True))


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_imports_nothing_heavy(verb: str, helps: dict[str, subprocess.CompletedProcess[str]]) -> None:
    answer = helps[verb]
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "Usage:" in answer.stdout
    if not verb:
        assert all(name in answer.stdout for name in VERBS)


def test_the_probe_of_imports_sees_them() -> None:
    assert imported("import autotune.finals.verdict, numpy").stderr == "numpy"


def test_the_package_offers_its_calls_without_importing_anything_heavy() -> None:
    statement = "import autotune; autotune.load; autotune.Tuned; autotune.UserError; assert 'tune' in dir(autotune)"
    answer = imported(statement)
    assert (answer.returncode, answer.stderr) == (0, "")
    unknown = imported("import autotune; autotune.tnue")
    assert "AttributeError: module 'autotune' has no attribute 'tnue'" in unknown.stderr


def test_a_study_imports_of_scipy_what_it_needs() -> None:
    """All of scipy.stats and scipy.optimize take longer to import than everything else."""
    seen = imported("import autotune.night.session; from autotune.finals import verdict; verdict.interval([1.0, 2.0])")
    assert seen.returncode == 0
    assert "scipy" in seen.stderr.split() and not {"scipy.stats", "scipy.optimize", "torch"} & set(seen.stderr.split())


# --- text ---


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("loss 2.5 \N{MULTIPLICATION SIGN} ü", "loss 2.5 \N{MULTIPLICATION SIGN} ü"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[31mred\x1b]0;title\x07", "\ufffd[31mred\ufffd]0;title\ufffd"),
        ("over\rwritten\b\x7f", "over\ufffdwritten\ufffd\ufffd"),
        ("\x9b31m\x85\x00", "\ufffd31m\ufffd\ufffd"),
    ],
)
def test_control_characters_stay_text(text: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert plain(text) == shown
    say(text)
    assert capsys.readouterr().out == f"{shown}\n"


# --- exit codes ---


def test_a_missing_study_is_a_fault_of_usage(tmp_path: Path) -> None:
    make_queue(tmp_path, make_study(tmp_path))
    answer = command("status", "nigth", folder=tmp_path)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr == "no study at runs/nigth; the studies there are night\n"


def test_a_missing_study_file_names_the_nearest(tmp_path: Path) -> None:
    make_study(tmp_path)
    answer = command("run", "nigth.toml", folder=tmp_path)
    assert (answer.returncode, answer.stderr) == (2, 'nigth.toml: no such study file (did you mean "night.toml"?)\n')
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "night.toml", "--trials", "0"), "Invalid value for '--trials': "),
        (("run", "night.toml", "--until", "25:00"), '--until: "25:00" is not a time of day; write it as "HH:MM"'),
        (("run", "night.toml", "--hours", "-1"), "--hours: must be greater than 0, but it is -1.0"),
        (("compare", "night"), "compare needs the names of two studies or more"),
        (("stop", "night"), "no study at runs/night; "),
        (("train", "nothing.toml"), "nothing.toml: no such file"),
        (("promote", "nothing"), "no study at runs/nothing; "),
        (("run", "--nonsense"), "No such option"),
        (("nonsense",), "No such command"),
    ],
)
def test_usage_faults_end_with_2(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    make_study(tmp_path)
    answer = command(*arguments, folder=tmp_path)
    assert answer.returncode == 2
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "runs").exists()


def test_a_damaged_database_is_a_fault_of_the_environment(tmp_path: Path) -> None:
    queue = make_queue(tmp_path, make_study(tmp_path))
    queue.storage.engine.dispose()
    queue.run.database.write_bytes(b"not a database, however long it is read" * 100)
    answer = command("status", "night", folder=tmp_path)
    assert answer.returncode == 3
    assert "study.db is damaged" in answer.stderr


def test_a_study_that_runs_elsewhere_ends_with_5(tmp_path: Path) -> None:
    make_study(tmp_path)
    with RunDirectory(tmp_path / "runs" / "night").held():
        answer = command("run", "night.toml", "--device", "cpu", folder=tmp_path)
    assert answer.returncode == 5
    assert answer.stderr.startswith("night has been running since ") and f"(PID {os.getpid()})" in answer.stderr


def test_promoting_without_a_verdict_ends_with_4(tmp_path: Path) -> None:
    from autotune.promotion.selection import select_trial_to_promote
    from autotune.store.study_record import read_study

    queue = make_queue(tmp_path, make_study(tmp_path))
    with pytest.raises(UserError) as caught:
        select_trial_to_promote(read_study(queue.run.root))
    assert caught.value.exit_code == 4


def test_status_as_json(tmp_path: Path) -> None:
    import json

    queue = make_queue(tmp_path, make_study(tmp_path))
    assignment = queue.take()
    assert assignment is not None
    queue.tell(assignment.trial, result(), assignment.folder)
    answer = command("status", "night", "--json", folder=tmp_path)
    assert answer.returncode == 0
    assert {name: json.loads(answer.stdout)[name] for name in ("study", "trials", "best_loss", "running_pid")} == {
        "study": "night",
        "trials": {"finished": 1},
        "best_loss": 2.0,
        "running_pid": None,
    }


# --- names of studies ---


def test_a_study_is_found_by_its_path_its_run_and_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = make_study(tmp_path).text
    for place, title in (("runs/night/study.toml", "run"), ("studies/night.toml", "file"), ("studies/x.toml", "other")):
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        Path(place).write_text(f'title = "{title}"\n{text}')
    titles = [options.load_study(name, Path("runs"), None).spec.title for name in ("night.toml", "night", "x")]
    assert titles == ["", "run", "other"]


def test_the_projects_own_studies_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert options.load_study("quickstart", Path("runs"), None).spec.name == "quickstart"


def test_the_projects_own_studies_are_installed_with_it() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "studies" in table["packages"]["find"]["include"] and (options.STUDIES / "__init__.py").exists()
    shipped = {path for pattern in table["package-data"]["studies"] for path in options.STUDIES.glob(pattern)}
    assert shipped == set(options.STUDIES.glob("*.toml"))


def test_the_run_directory_is_found_by_name_folder_and_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_queue(tmp_path, make_study(tmp_path))
    for name in ("night", "runs/night", "night.toml"):
        assert options.run_directory(name, Path("runs")) == Path("runs/night")


def test_flags_come_after_the_settings_of_the_same_name(tmp_path: Path) -> None:
    make_study(tmp_path)
    loaded = options.load_study(str(tmp_path / "night.toml"), tmp_path, ["budget.trials=5", "seed=2"], trials=7, seed=3)
    assert (loaded.spec.budget.trials, loaded.spec.seed) == (7, 3)


def test_the_command_lines_deadline_replaces_the_study_files(tmp_path: Path) -> None:
    study = make_study(tmp_path, "budget.hours=5.0")
    assert 4 * 3600 < options.deadline_of(study, None, None).seconds_left <= 5 * 3600
    assert 8 * 3600 < options.deadline_of(study, 9.0, None).seconds_left <= 9 * 3600
    assert options.deadline_of(make_study(tmp_path), None, None).seconds_left == float("inf")


def test_the_shell_completes_studies(tmp_path: Path) -> None:
    for name in ("night", "noon"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "spec.json").touch()
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "nightly.toml").touch()
    asked = {"_AUTOTUNE_COMPLETE": "complete_bash", "COMP_WORDS": "autotune status n", "COMP_CWORD": "2"}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.argv = ['autotune']; from autotune.cli.main import app; app(prog_name='autotune')",
        ],
        env={**os.environ, **asked, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.split() == ["night", "noon"], done.stderr
