"""A study in a real notebook kernel: a cell's function, plain lines, an interrupt that parks, and a second kernel."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from study_folder import StudyFolder, wait_for

from autotune.core.files import read_lines

nbformat = pytest.importorskip("nbformat", reason="needs nbformat, nbclient and ipykernel: pip install -e '.[dev]'")
nbclient = pytest.importorskip("nbclient", reason="needs nbformat, nbclient and ipykernel: pip install -e '.[dev]'")
pytest.importorskip("ipykernel", reason="needs nbformat, nbclient and ipykernel: pip install -e '.[dev]'")

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
# zmq's own loops, and the event loop that nbclient leaves to the end of the process.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

TRAINER = """
import math, os, random, time
from dataclasses import dataclass
import autotune

@dataclass
class Config:
    lr: float = 0.001
    seed: int = 0

SLOW = "slow"

def fit(config: Config, budget_tokens: int, report):
    noise = random.Random(config.seed).gauss(0, 0.01)
    for number in range(1, 6):
        if os.path.exists(SLOW) and budget_tokens == 100_000:
            open("begun", "w").close()
            time.sleep(0.3)
        loss = 2 + math.log10(config.lr / 0.01) ** 2 + 2 * math.exp(-number) + noise
        if not report({"tokens_seen": budget_tokens * number // 5, "val_loss": loss}):
            return
"""
TUNE = """
study = autotune.tune(
    fit, {"lr": {"low": 1e-4, "high": 1.0, "log": True}}, tokens=100_000, trials=6, device="cpu",
    sampler={"name": "tpe"}, finals={"prove_seeds": 2, "max_seeds": 2}, limits={"min_free_bytes": 0},
)
study
"""
COMMAND = """
import sys
!{sys.executable} -c 'import sys; print("a terminal:", sys.stdout.isatty())'
!{sys.executable} -m autotune run runs/fit/study.toml \"--set=name='other'\" --device cpu
"""


@pytest.fixture
def place(tmp_path: Path, hardware: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which the machine was measured already."""
    for name in ("fit", "other"):
        profiled = tmp_path / "runs" / name / "hardware.json"
        profiled.parent.mkdir(parents=True)
        profiled.write_text(json.dumps(hardware))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def awaited(cells: Coroutine[Any, Any, T]) -> T:
    """Returns what cells showed; in a thread, since Chromium's tests may have left a loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, cells).result()


class Notebook:
    """A kernel and the cells that it has executed."""

    def __init__(self, folder: Path) -> None:
        self.node = nbformat.v4.new_notebook()
        self.client = nbclient.NotebookClient(self.node, timeout=120, resources={"metadata": {"path": str(folder)}})

    async def execute(self, source: str) -> dict[str, str]:
        """Executes a cell and returns what it has printed, and what it shows as text and as HTML."""
        self.node.cells.append(nbformat.v4.new_code_cell(source))
        cell = await self.client.async_execute_cell(self.node.cells[-1], len(self.node.cells) - 1)
        shown = {"printed": "".join(output.text for output in cell.outputs if output.output_type == "stream")}
        for output in cell.outputs:
            shown |= {kind: text for kind, text in output.get("data", {}).items() if isinstance(text, str)}
        return shown

    async def fault(self, source: str) -> str:
        """Executes a cell that raises, and returns what it shows of that."""
        with pytest.raises(nbclient.exceptions.CellExecutionError):
            await self.execute(source)
        (shown,) = [output for output in self.node.cells[-1].outputs if output.output_type == "error"]
        return "\n".join(shown.traceback)

    async def interrupt_when(self, sign: Path) -> None:
        """Interrupts the kernel, as the button does, as soon as a file is there."""
        while not sign.exists():
            await asyncio.sleep(0.05)
        await self.client.km.interrupt_kernel()


def test_cells_tune_a_function_and_the_study_is_shown(place: Path) -> None:
    async def cells() -> tuple[dict[str, str], ...]:
        notebook = Notebook(place)
        async with notebook.client.async_setup_kernel():
            await notebook.execute(TRAINER)
            wrong = await notebook.fault("autotune.load('nothing')")
            tuned = await notebook.execute(TUNE)
            page = await notebook.execute("study.page(height=500)")
            table = await notebook.execute("print(len(study.trials), study.best_config['lr'] != 0.001, study.state)")
            return {"printed": wrong}, tuned, page, table, await notebook.execute(COMMAND)

    wrong, tuned, page, table, command = awaited(cells())
    assert wrong["printed"].startswith("UserError: no study at runs/nothing")
    assert "✓ trial 0 finished" in tuned["printed"] and "verdict: better" in tuned["printed"]
    assert 'class="autotune-verdict">✓ better' in tuned["text/html"] and "<script" not in tuned["text/html"]
    assert tuned["text/plain"] == "<autotune.Tuned 'fit' at 'runs/fit'>"
    assert page["text/html"].startswith('<iframe srcdoc="&lt;!doctype html')
    assert table["printed"] == "6 True done\n"
    # The cell of a command is a terminal to it, and what is drawn over there stays.
    assert command["printed"].startswith("a terminal: True")
    assert " trial 5 " in command["printed"] and "report: runs/other/report/index.html" in command["printed"]
    assert "\x1b" not in tuned["printed"] + command["printed"]


@pytest.mark.thorough
def test_an_interrupt_parks_and_the_next_kernel_goes_on_from_the_mirror(place: Path) -> None:
    (place / "slow").touch()
    (place / "drive").mkdir()
    tune = TUNE.replace('device="cpu"', 'device="cpu", mirror="drive"')

    async def interrupted() -> tuple[dict[str, str], dict[str, str]]:
        notebook = Notebook(place)
        async with notebook.client.async_setup_kernel():
            await notebook.execute(TRAINER)
            button = asyncio.create_task(notebook.interrupt_when(place / "begun"))
            parked = await notebook.execute(tune)
            await button
            return parked, await notebook.execute("print(study.state, len(study.trials))")

    async def resumed() -> tuple[dict[str, str], dict[str, str]]:
        notebook = Notebook(place)
        async with notebook.client.async_setup_kernel():
            await notebook.execute("# the cells have other numbers now")
            await notebook.execute(TRAINER.replace("noise =", "# a remark\n    noise  ="))
            done = await notebook.execute(tune)
            counted = "print(study.state, (study.trials.status != 'interrupted').sum())"
            return done, await notebook.execute(counted)

    parked, state = awaited(interrupted())
    assert "stopping after the next evaluation" in parked["printed"] and "parked, nothing is lost" in parked["printed"]
    assert (place / "runs/fit/report/index.html").exists() and "fit: parked" in parked["text/html"]
    assert state["printed"].startswith("parked ")
    command = "autotune run fit --device cpu --mirror drive"
    assert f"resume with: {command}" in parked["printed"] and f"<code>{command}</code>" in parked["text/html"]

    os.unlink(place / "slow")
    shutil.rmtree(place / "runs")
    done, state = awaited(resumed())
    assert "going on from the snapshot of" in done["printed"]
    assert state["printed"] == "done 6\n" and "verdict: " in done["printed"]


def test_a_study_in_a_thread_of_a_kernel_is_stopped_from_a_cell(place: Path) -> None:
    (place / "slow").touch()
    start = "import threading, time\ndef work():\n" + "".join(
        f"    {line}\n" for line in TUNE.strip().splitlines()[:-1]
    )
    start += (
        "thread = threading.Thread(target=work)\nthread.start()\nwhile not os.path.exists('begun'): time.sleep(0.05)"
    )

    async def cells() -> tuple[dict[str, str], ...]:
        notebook = Notebook(place)
        async with notebook.client.async_setup_kernel():
            await notebook.execute(TRAINER)
            await notebook.execute(start)
            running = await notebook.execute("study = autotune.load('runs/fit')\nprint(study.state)")
            told = await notebook.execute("import sys\n!{sys.executable} -m autotune stop fit")
            parked = await notebook.execute("study.stop()\nthread.join()\nprint(study.state)")
            return running, told, parked

    running, told, parked = awaited(cells())
    assert "running\n" in running["printed"]
    assert "autotune.load('runs/fit').stop() parks it" in told["printed"]
    assert parked["printed"].endswith("parked\n")


def test_a_hosted_study_parks_and_shows_its_page_and_parks_when_its_kernel_dies(
    place: Path, hardware: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the cell of studies/overnight.ipynb calls, on a study whose trainings wait at a gate."""
    folder = StudyFolder(place, hardware).write(base={"fault": "gate", "fault_budget": 100_000})
    folder.place_hardware()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "fakes"))))
    cell = (
        "from autotune.machine.hosted import HostedStudy\n"
        "study = HostedStudy('fake.toml', mirror='', options='--device cpu')\nstudy.run()"
    )

    async def stop(notebook: Notebook) -> None:
        await notebook.interrupt_when(folder.log / "at-gate.txt")
        while "stopping after the next evaluation" not in str(notebook.node.cells[-1].outputs):
            await asyncio.sleep(0.05)
        folder.open_gate()

    async def cells() -> dict[str, str]:
        notebook = Notebook(place)
        async with notebook.client.async_setup_kernel():
            button = asyncio.create_task(stop(notebook))
            parked = await notebook.execute(cell)
            await button
            folder.close_gate()

            running = asyncio.create_task(notebook.execute(cell))
            while not (folder.log / "at-gate.txt").exists():
                await asyncio.sleep(0.05)
            await notebook.client.km.shutdown_kernel(now=True)
            folder.open_gate()
            with pytest.raises(nbclient.exceptions.DeadKernelError):
                await running
        return parked

    parked = awaited(cells())
    assert "resume with: autotune run fake --device cpu" in parked["printed"]
    assert parked["text/html"].startswith('<iframe srcdoc="&lt;!doctype html')
    wait_for(lambda: folder.directory().running_pid() is None)
    assert [event["kind"] for event in read_lines(folder.directory().events)].count("parked") == 2
