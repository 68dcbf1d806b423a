"""The command line of the comparison over tables, and one comparison of two small tables."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import bench_replay
import peers
import pytest
from recorded_tables import bowl_table
from replay_task import Task

from autotune.core.errors import UserError
from autotune.replay.table import write
from autotune.study.algorithm_spec import PrunerSpec, SamplerSpec

BENCH = Path(bench_replay.__file__)


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    folder = tmp_path / "tables"
    folder.mkdir()
    write(bowl_table(40), folder / "smooth.json")
    write(bowl_table(30, noise=0.05), folder / "noisy.json")
    return folder


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, BENCH, *arguments], capture_output=True, text=True, check=False)


def test_a_folder_is_all_its_tables_and_the_projects_own_are_the_default(tables: Path) -> None:
    assert list(bench_replay.table_paths([tables])) == ["noisy", "smooth"]
    assert list(bench_replay.table_paths([tables / "smooth.json"])) == ["smooth"]
    assert list(bench_replay.table_paths([])) == ["overnight_h100", "quickstart_cpu"]


def test_what_is_no_table_is_refused(tables: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \.json file in this folder"):
        bench_replay.table_paths([tmp_path])
    with pytest.raises(UserError, match="no such table"):
        bench_replay.table_paths([tmp_path / "absent.json"])
    with pytest.raises(UserError, match="has the same name"):
        bench_replay.table_paths([tables, tables / "smooth.json"])


def test_a_variant_is_a_sampler_and_a_pruner_as_in_a_study_file() -> None:
    method = bench_replay.parse_variant(
        'a b: sampler={name="gp", n_startup_trials=3} pruner={name="median", warmup_frac=0.2}', []
    )
    assert method.name == "a b"
    assert method.search.keywords == {
        "sampler": SamplerSpec(name="gp", n_startup_trials=3),
        "pruner": PrunerSpec(name="median", warmup_frac=0.2),
    }
    assert bench_replay.parse_variant("x: pruner=none", []).search.keywords["sampler"] == SamplerSpec()
    assert bench_replay.parse_variant("x:sampler=tpe", []).search.keywords["sampler"] == SamplerSpec(name="tpe")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x", "write 'NAME: sampler"),
        (": sampler=gp", "write 'NAME: sampler"),
        ("x: sampler=gp sampler=tpe", "write 'NAME: sampler"),
        ("x: gp", "write 'NAME: sampler"),
        ("x: sampler=gpp", "there is no sampler 'gpp'"),
        ('x: sampler={name="gp"', "write it as in a study file"),
        ('x: pruner={name="median", warm=1}', "has no parameter 'warm'"),
    ],
)
def test_a_variant_that_cannot_be_read_is_refused(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        bench_replay.parse_variant(text, [])


def test_a_variant_that_no_table_can_tell_of_is_refused(tables: Path) -> None:
    with pytest.raises(UserError, match="wilcoxon compares trials by their seeds"):
        bench_replay.parse_variant("x: pruner=wilcoxon", [tables / "smooth.json"])


def test_the_reference_and_random_search_are_always_run() -> None:
    variant = bench_replay.parse_variant("mine: sampler=tpe", [])
    methods, _ = bench_replay.chosen_methods([variant], re.compile("^GP, no"), with_tools=False, with_slow=False)
    assert [method.name for method in methods] == [
        "ours",
        "mine",
        peers.REFERENCE.name,
        peers.RANDOM.name,
        "GP, no pruner",
    ]
    with pytest.raises(UserError, match="another method has this name"):
        bench_replay.chosen_methods([variant, variant], re.compile(""), with_tools=False, with_slow=False)


def test_a_variant_is_the_engines_search() -> None:
    recorded = bowl_table(30)
    plain = bench_replay.parse_variant("x: sampler=gp pruner=rank", [])
    assert plain.search(Task(recorded, 2, 300.0)) == peers.OURS.search(Task(recorded, 2, 300.0))


def test_two_tables_in_both_ways_with_both_defaults(tables: Path) -> None:
    variants = ("--variant", "early: pruner=none", "--variant", "late: sampler=tpe", "--choose")
    few = ("--repeats", "2", "--trials", "5", "--only", "^top", *variants)
    done = bench(str(tables), *few, "--jobs", "2")
    assert done.returncode == 0, done.stderr

    text = done.stdout
    for heading in (
        "### A proposal becomes the nearest row; the table's own default first",
        "### A proposal becomes the nearest row; a row drawn at random first",
        "### Proposals are rows that are left; the table's own default first",
        "### Proposals are rows that are left; a row drawn at random first",
    ):
        assert text.count(heading) == 1
    assert text.count("Chosen on the other tables, within 0.5 % of the best") == 4
    assert text.count("| TPE + MedianPruner as Optuna ships them | 1.00 (1.00-1.00)") == 4 * 3
    assert text.count("| noisy | ours |") == text.count("| smooth | top 3 of 27") == 4

    def figures(lines: str) -> list[str]:
        """Without the seconds, which no two runs have in common."""
        return [line.rsplit(" | ", 1)[0] for line in lines.splitlines() if line.startswith("| ")]

    again = bench(str(tables), *few, "--way", "pool", "--default", "random")
    _, last = text.split("### Proposals are rows that are left; a row drawn at random first")
    assert figures(again.stdout) == figures(last)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--choose",), "--choose has 0 --variant and 2 tables"),
        (("--variant", "x: sampler=nsga2"), "NSGAIISampler cannot be asked for rows"),
        (("--way", "both", "absent.json"), "absent.json: no such table"),
        (("--repeats", "0"), "'0' is no whole number from 1 up"),
        (("--trials", "nan"), "'nan' is no number from 1 up"),
        (("--only", "("), "'(' is no regular expression"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is(
    tables: Path,
    arguments: tuple[str, ...],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_replay.py", str(tables), *arguments])
    with pytest.raises(SystemExit) as ended:
        bench_replay.main()
    said = capsys.readouterr()
    assert (ended.value.code, says in said.err, said.out.strip()) == (2, True, "")
