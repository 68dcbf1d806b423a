"""Two processes that torchrun starts train what one does: real processes, gradients summed by gloo."""

import os
import signal
import subprocess
import sys

import pytest
import tomli_w
from safetensors.torch import load_file
from test_train_run import TIMES, small_config, speeches  # noqa: F401 (fixtures)

PASSES, SEQUENCES, SEQ_LEN = 40, 4, 32
BUDGET_TOKENS = PASSES * SEQUENCES * SEQ_LEN
# Sums of the same numbers in another order; several updates of Muon make more of it.
TOLERANCE = 2e-3


def write_config(folder, speeches, **sections):  # noqa: F811
    sections["optim"] = {"grad_accum_steps": 4} | sections.get("optim", {})
    sections["data"] = {"num_evals": 5}
    sections["output"] = {"sample_tokens": 0} | sections.get("output", {})
    config = small_config(speeches, **sections).model_dump(mode="json", exclude_none=True)
    path = folder / "best_config.toml"
    path.write_text(tomli_w.dumps({"trainer": "model.train:train", "tokens": BUDGET_TOKENS, "config": config}))
    return path


def start(path, processes, folder):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "autotune", "train", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(
        [*command, "--folder", str(folder)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def ends(process):
    text, _ = process.communicate(timeout=200)
    assert process.returncode == 0, text
    return text


@pytest.fixture(scope="module")
def alone(speeches, tmp_path_factory):  # noqa: F811
    """One process, its whole output."""
    folder = tmp_path_factory.mktemp("alone")
    return ends(start(write_config(folder, speeches), 1, folder / "out")), folder / "out"


def said_losses(text):
    return [float(line.split("loss ")[1]) for line in text.splitlines() if "  loss " in line]


def check(text, folder, alone):
    assert said_losses(text) == pytest.approx(said_losses(alone[0]), abs=TOLERANCE)
    ours, theirs = (load_file(each / "export" / "model.safetensors") for each in (folder, alone[1]))
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        assert (ours[name] - weight).abs().max() < 0.02, name


def test_two_processes_train_what_one_does_and_speak_once(speeches, tmp_path, alone):  # noqa: F811
    text = ends(start(write_config(tmp_path, speeches), 2, tmp_path / "out"))
    assert len(said_losses(text)) == 5 and text.count("done:") == 1
    check(text, tmp_path / "out", alone)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_killed_it_goes_on_with_another_number_of_processes(speeches, tmp_path, alone, before, after):  # noqa: F811
    """One process keeps what it has accumulated of a batch, too, which then counts once among two."""
    path = write_config(tmp_path, speeches, output={"checkpoint_every_tokens": SEQUENCES * SEQ_LEN})
    process = start(path, before, tmp_path / "out")
    while "loss" not in process.stdout.readline():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert list((tmp_path / "out" / "checkpoints").glob("*.safetensors"))
    check(ends(start(path, after, tmp_path / "out")), tmp_path / "out", alone)


def test_processes_that_cannot_share_a_batch_are_refused(speeches, tmp_path):  # noqa: F811
    path = write_config(tmp_path, speeches, system={"micro_batch_size": 3}, optim={"grad_accum_steps": 1})
    process = start(path, 2, tmp_path / "out")
    text, _ = process.communicate(timeout=200)
    assert process.returncode != 0
    assert "2 processes cannot share the 3 sequences of a batch" in text and "start 1, 3 of them" in text
