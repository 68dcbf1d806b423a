"""With --json stdout has one JSON object and nothing else, whoever prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def python(script: str, *arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a script in a process of its own, whose standard streams are pipes."""
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_what_others_print_goes_to_stderr() -> None:
    done = python(
        "import subprocess\n"
        "from autotune.core.text import say\n"
        "from autotune.cli import output\n"
        "from autotune.cli.answers.studies import Begun\n"
        "for asked in (True, False):\n"
        "    with output.for_programs(asked):\n"
        "        say('for people')\n"
        "        print('by a trainer', flush=True)\n"
        "        subprocess.run(['echo', 'by a child'])\n"
        "        if asked: output.answer(Begun(written=['a.toml'], next='autotune run a.toml'))\n"
    )
    answer, _, rest = done.stdout.rpartition("}\n")
    assert json.loads(answer + "}")["written"] == ["a.toml"]
    printed = ["for people", "by a trainer", "by a child"]
    assert done.stderr.splitlines() == rest.splitlines() == printed, "and without --json nothing changes"


def test_errors_and_wrong_usage_are_json_too(tmp_path: Path) -> None:
    """And so is what nobody expected, whose traceback people get."""
    script = (
        "import sys\n"
        "if sys.argv[1] == 'timeline':\n"
        "    import reports.timeline as timeline\n"
        "    timeline.read_timeline = lambda *_: 1 / 0\n"
        "from autotune.cli.main import main; main()"
    )
    for arguments, kind, code, words in (
        (("status", "nothing"), "usage", 2, "no study at runs/nothing"),
        (("status",), "usage", 2, "Missing argument"),
        (("watches",), "usage", 2, "No such command"),
        (("timeline",), "unexpected", 1, "ZeroDivisionError"),
    ):
        done = python(script, *arguments, "--json", folder=tmp_path)
        told = json.loads(done.stdout)
        assert (told["schema"], told["kind"], told["exit_code"]) == ("autotune.error/1", kind, code), arguments
        assert words in told["message"] and words in done.stderr
        assert done.returncode == code

    schema = python(script, "schema", "status", "--json", folder=tmp_path)
    assert json.loads(schema.stdout)["type"] == "object", "it is JSON whether that is asked for or not"


def test_a_reader_that_has_left_costs_nothing() -> None:
    script = (
        "from autotune.cli import output; from autotune.cli.answers.studies import Begun\n"
        "with output.for_programs(True): output.answer(Begun(written=['x' * 100_000], next=''))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(60) == 0
    process.stderr.close()
