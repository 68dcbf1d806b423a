"""The README's notebook and commands on real text with the real trainer: a whole night in small."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs nbformat, nbclient and ipykernel: pip install -e '.[dev]'")
nbclient = pytest.importorskip("nbclient", reason="needs nbformat, nbclient and ipykernel: pip install -e '.[dev]'")
# zmq's own loops, and the event loop that nbclient leaves to the end of the process.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

ROOT = Path(__file__).parents[2]
AUTOTUNE = Path(sys.executable).with_name("autotune")
# The quickstart with shorter trials and fewer of them: everything else is the study a newcomer runs.
SMALL = [
    "--trials=4",
    "--set=budget.tokens=8192",
    "--set=finals={finalists=2,select_seeds=1,prove_seeds=2,max_seeds=2,attribute_seeds=0}",
    "--set=promote.tokens=32768",
    "--set=base.data.eval_tokens=4096",
    "--set=pruner={name='median',n_startup_trials=3,warmup_frac=0.3}",
]


def autotune(folder: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs the console command as a user would and checks its exit code."""
    ended = subprocess.run(
        [str(AUTOTUNE), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "BROWSER_PATH": str(folder / "none")},  # no pictures
    )
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended


def filled_in(source: str, **fields: str) -> str:
    """Returns a cell's code with fields of its form filled in, as Colab does it."""
    for name, value in fields.items():
        source, count = re.subn(rf"^{name} = \S+", lambda _, set=f"{name} = {value!r}": set, source, flags=re.MULTILINE)
        assert count == 1, name
    return source


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """The notebook of hosted nights, executed on a small quickstart: its folder, and the outputs of its code cells."""
    folder = tmp_path_factory.mktemp("night")
    node = nbformat.read(ROOT / "studies" / "overnight.ipynb", as_version=4)
    cells = [cell for cell in node.cells if cell.cell_type == "code"]
    assert not any(cell.outputs for cell in cells), "it is kept without outputs"
    study, drive = str(ROOT / "studies" / "quickstart.toml"), str(folder / "drive")
    cells[0].source = filled_in(cells[0].source, STUDY=study, MIRROR=drive, OPTIONS=shlex.join(SMALL))

    environment = {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "IPYTHONDIR": str(folder / "ipython")}
    client = nbclient.NotebookClient(node, timeout=280, resources={"metadata": {"path": str(folder)}})
    # In a thread, since Chromium's tests may have left an event loop in this one.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, client.async_execute(env={**os.environ, **environment})).result()
    return folder, [cell.outputs for cell in cells]


@pytest.fixture(scope="module")
def night(notebook: tuple[Path, list[Any]]) -> tuple[Path, str]:
    """A finished small quickstart: its folder and what its cell said."""
    folder, (outputs, *_) = notebook
    said = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "Warning" not in said, "no library warns of what a user can do nothing about"
    logs = (folder / "runs" / "quickstart").glob("*/**/log.txt")
    assert not [path for path in logs if "Warning" in path.read_text(encoding="utf-8")]
    return folder, said


def test_the_notebook_runs_the_study_shows_its_page_and_has_its_model_write(notebook: tuple[Path, list[Any]]) -> None:
    folder, (ran, shown, wrote) = notebook
    page = (folder / "runs/quickstart/report/index.html").read_text(encoding="utf-8")
    for outputs in (ran, shown):
        frame = outputs[-1].data["text/html"]
        assert unescape(frame.partition('srcdoc="')[2].partition('" sandbox')[0]) == page
    (text,) = wrote
    assert text.text.startswith("My fellow") and len(text.text) > 40


def test_the_night_ends_with_verdict_report_and_next_command(night: tuple[Path, str]) -> None:
    folder, said = night
    *last, mirrored = said.strip().splitlines()
    assert mirrored.startswith(f"mirrored to {night[0]}/drive/quickstart: ")
    assert any(word in said for word in ("better", "no clear gain", "inconclusive"))
    assert last[-1] == "report: runs/quickstart/report/index.html"
    command = rf"autotune promote quickstart --tokens \d+ --session-hours 11 --mirror {night[0]}/drive"
    assert re.search(rf"^next: {command} ", said, flags=re.MULTILINE)
    assert (folder / "runs/quickstart/report/index.html").stat().st_size > 1_000_000


def test_the_night_leaves_every_file(night: tuple[Path, str]) -> None:
    run = night[0] / "runs/quickstart"
    for name in ("study.toml", "hardware.json", "study.db", "best_config.toml", "events.jsonl"):
        assert (run / name).stat().st_size > 0, name
    for name in ("report.md", "report.json", "trials.csv", "curves.csv"):
        assert (run / "report" / name).stat().st_size > 0, name
    for name in ("config.json", "metrics.jsonl", "result.json", "log.txt"):
        assert (run / "trials/0000" / name).exists(), name


def test_every_final_used_a_fresh_seed_and_the_same_held_out_tokens(night: tuple[Path, str]) -> None:
    run = night[0] / "runs/quickstart"
    results = [json.loads(path.read_text()) for path in run.glob("finals/*/result.json")]
    search = json.loads((run / "trials/0000/result.json").read_text())
    assert len(results) == 6
    assert search["config"]["seed"] not in {result["config"]["seed"] for result in results}
    assert {result["facts"]["data_hash"] for result in results} == {search["facts"]["data_hash"]}


def test_the_full_run_leaves_loadable_weights_and_a_sample(night: tuple[Path, str]) -> None:
    from safetensors.numpy import load_file

    (folder,) = (night[0] / "runs/quickstart/full").glob("trial-*-tokens")
    weights = load_file(folder / "export" / "model.safetensors")
    assert "model.embed_tokens.weight" in weights
    assert (folder / "sample.txt").exists()  # so short a training may have learned to say nothing


def test_the_full_run_can_be_used_by_its_studys_name(night: tuple[Path, str]) -> None:
    folder, _ = night
    (full,) = (night[0] / "runs/quickstart/full").glob("trial-*-tokens")
    said = autotune(folder, "generate", "quickstart", "--prompt", "My fellow", "--tokens", "60").stdout
    assert said.startswith("My fellow")
    assert len(said) > len("My fellow") + 20
    found = json.loads(autotune(folder, "evaluate", "quickstart", "--json").stdout)
    stored = json.loads((full / "0000/result.json").read_text())
    assert found["loss"] == found["loss_in_training"] == stored["points"][-1]["val_loss"]
    (folder / "own.txt").write_text("My fellow citizens. " * 50)
    said = autotune(folder, "evaluate", str(full), "--data", "own.txt").stdout
    assert re.search(r"^bytes +1,000$", said, flags=re.MULTILINE)


def test_the_model_card_says_where_its_settings_come_from(night: tuple[Path, str]) -> None:
    folder, _ = night
    best = tomllib.loads((folder / "runs/quickstart/best_config.toml").read_text())["provenance"]
    (card,) = (folder / "runs/quickstart/full").glob("trial-*-tokens/export/README.md")
    text = card.read_text(encoding="utf-8")
    assert "- study: quickstart\n" in text
    # Without git, as in an unpacked archive, neither has one.
    assert re.findall("^- git commit: (.*)$", text, flags=re.MULTILINE) == list(filter(None, [best["git_commit"]]))
    assert f"torch {best['versions']['torch']}" in text
    assert re.search(r"^- trial: \d+$", text, flags=re.MULTILINE)


def test_best_config_has_provenance_and_can_be_trained(night: tuple[Path, str]) -> None:
    folder, _ = night
    path = folder / "runs/quickstart/best_config.toml"
    content = tomllib.loads(path.read_text())
    assert content["provenance"]["study"] == "quickstart"
    assert content["provenance"]["data_hash"]
    assert content["provenance"]["versions"]["torch"]
    ended = autotune(folder, "train", str(path), "--tokens", "4096", "--folder", "trained")
    assert "100%" in ended.stdout
    assert ended.stderr == "", "no library warns of what a user can do nothing about"
    assert (folder / "trained/sample.txt").exists()


def test_status_report_and_a_second_run_from_the_mirror_alone_change_nothing(
    night: tuple[Path, str], tmp_path: Path
) -> None:
    folder, _ = night
    before = json.loads(autotune(folder, "status", "quickstart", "--json").stdout)
    again = ["--hours", "8", "--session-hours", "11", "--mirror", str(folder / "drive")]
    ended = autotune(tmp_path, "run", str(ROOT / "studies" / "quickstart.toml"), *SMALL, *again)
    assert "going on from the snapshot of" in ended.stdout
    assert ended.stderr == "", "no library warns of what a user can do nothing about"
    autotune(tmp_path, "report", "quickstart")
    after = json.loads(autotune(tmp_path, "status", "quickstart", "--json").stdout)
    assert {**after, "last_event": None} == {**before, "last_event": None}
    assert before["trials"].get("finished", 0) + before["trials"].get("pruned", 0) == 4


def test_compare_puts_two_studies_side_by_side(night: tuple[Path, str]) -> None:
    folder, _ = night
    shutil.copytree(folder / "runs/quickstart", folder / "runs/other")
    said = autotune(folder, "compare", "quickstart", "other").stdout
    assert "quickstart" in said
    assert "other" in said
    assert (folder / "runs/compare").is_dir()


def test_a_changed_study_is_refused_with_the_change_named(night: tuple[Path, str]) -> None:
    study = str(ROOT / "studies" / "quickstart.toml")
    ended = autotune(night[0], "run", study, *SMALL, "--set=base.optim.grad_clip=2.0", code=2)
    assert "base.optim.grad_clip: was 1.0, is 2.0" in ended.stderr


def test_promote_trains_a_chosen_trial_and_goes_on_from_its_mirrored_checkpoint(
    night: tuple[Path, str], tmp_path: Path
) -> None:
    shutil.copytree(night[0] / "drive", tmp_path / "drive")
    command = ["promote", "quickstart", "--trial", "0", "--tokens", "12288", "--mirror", "drive"]
    seen = []
    with subprocess.Popen([AUTOTUNE, *command], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as parked:
        assert parked.stdout is not None
        for line in parked.stdout:
            if evaluated(line) and not seen:
                parked.send_signal(signal.SIGINT)
            seen += evaluated(line)
    assert parked.returncode == 130 and seen[-1] < 100
    shutil.rmtree(tmp_path / "runs")

    ended = autotune(tmp_path, *command)
    assert "going on from the snapshot of" in ended.stdout and ended.stderr == ""
    assert seen[-1] < min(evaluated(ended.stdout)) and "full run finished" in ended.stdout
    assert (tmp_path / "runs/quickstart/full/trial-0000-12288-tokens/export/model.safetensors").exists()


def evaluated(said: str) -> list[int]:
    """Returns at how many percent of a full run it was evaluated."""
    return [int(percent) for percent in re.findall(r"^full run +(\d+)%", said, flags=re.MULTILINE)]


def test_plan_says_what_a_study_will_take(night: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/corpus").symlink_to(night[0] / "runs/corpus")  # the night has built it
    study = str(ROOT / "studies" / "quickstart.toml")
    said = autotune(tmp_path, "plan", study, *SMALL[1:2], "--hours", "8").stdout
    assert "plan: up to 14 trials of 8,192 tokens" in said
    assert "  searches optim.muon_lr: " in said and ", by default 0.014" in said and "model.top_k" not in said
    assert len(said.splitlines()) <= 24, "it fits onto one screen"
    assert not (tmp_path / "runs" / "quickstart").exists()

    absent = autotune(tmp_path, "plan", study, "--card", "rtx 3060", "--all").stdout
    assert absent.startswith("reasoned from published figures of the RTX 3060, and not measured:\nplan: ")
    assert "  model.top_k = 2" in absent


def test_doctor_and_profile_answer(tmp_path: Path) -> None:
    ended = subprocess.run([str(AUTOTUNE), "doctor"], cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert ended.returncode in (0, 3)
    assert "torch" in ended.stdout
    assert json.loads(autotune(tmp_path, "profile", "--device", "cpu", "--json").stdout)["device"] == "cpu"


def test_every_command_of_the_readme_exists() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(?:\$ )?make (\w+)", readme, flags=re.MULTILINE))
    verbs = set(re.findall(r"\bautotune (\w+)", " ".join(re.findall(r"```.*?```", readme, flags=re.DOTALL))))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"tune", "test"} <= targets
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)
    assert {"doctor", "plan", "run", "report", "compare", "promote"} <= verbs
    lines = re.findall(r"^\$ autotune (\w+)(.*)", readme, flags=re.MULTILINE)
    for verb in verbs:
        told = subprocess.run([AUTOTUNE, verb, "--help"], check=True, capture_output=True, text=True, timeout=60).stdout
        named = {option for name, rest in lines if name == verb for option in re.findall(r"--[a-z-]+", rest)}
        assert named <= set(re.findall(r"--[a-z-]+", told)), verb


def test_every_study_of_the_readme_loads() -> None:
    from autotune.study.study_file import load_text

    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    whole, program = blocks
    assert load_text(whole, Path("my-study.toml")).spec.name == "my-study"
    rest = "[budget]\ntokens = 30\n[base]\nlr = 0.1\n[space]\nlr = {low = 0.01, high = 1.0, log = true}\n"
    assert load_text(f'name = "swept"\n{program}\n{rest}', Path("swept.toml")).spec.name == "swept"


def test_python_from_the_readme_does_what_it_says(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## From Python")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    (tmp_path / "fit.py").write_text(block)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "fit.py"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, env=environment)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"^better \{'lr': [\d.]+, 'momentum': [\d.]+, 'seed': 1\}$", ended.stdout, flags=re.MULTILINE)
    assert "full run finished" in ended.stdout and "params_momentum" in ended.stdout
    for name in re.findall(r"`(\w+\.csv)`", section):
        assert (tmp_path / "runs/fit/report" / name).stat().st_size > 0, name

    (line,) = re.findall(r"`(optuna\.load_study\(.*?\))`", section)
    code = f"import optuna; print(len({line.replace('NAME', 'fit')}.trials))"
    opened = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert opened.stdout == "20\n", opened.stderr


def test_every_study_file_loads_without_network() -> None:
    from autotune.study.study_file import load

    files = sorted((ROOT / "studies").glob("*.toml"))
    names = {load(path).spec.name for path in files}
    assert names == {path.stem for path in files}
    assert names >= {"quickstart", "overnight", "learning_rate", "cosine_schedule", "ablation", "warmup"}
    assert names >= {"expert_count", "baseline_comparison"}
