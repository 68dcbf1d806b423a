"""Properties of study files: every key is found, order means nothing, and no slip ends in a traceback."""

from __future__ import annotations

import copy
import re
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.study.errors import StudyFileError
from autotune.study.key_lines import key_lines
from autotune.study.spec import StudySpec
from autotune.study.study_file import load

STUDY: dict[str, Any] = {
    "name": "night",
    "title": "A title",
    "trainer": "fake_trainer:train",
    "seed": 3,
    "budget": {"tokens": 1_000, "trials": 4, "hours": 2.0, "until": "07:00"},
    "base": {"layers": 2, "output": {"dir": "a"}},
    "space": {
        "layers": {"low": 1, "high": 9, "step": 2, "when": {"heads": 2}},
        "lr": {"low": 0.0001, "high": 0.1, "log": True},
        "output.dir": {"choices": ["a", "b"]},
    },
    "sampler": {"name": "tpe", "n_startup_trials": 4},
    "pruner": {"name": "median", "n_startup_trials": 4, "warmup_frac": 0.3},
    "finals": {"finalists": 2, "select_seeds": 1, "prove_seeds": 4, "min_gain_frac": 0.01},
    "promote": {"tokens": 5, "automatic": False},
    "limits": {"hang_s": 5.0, "retries": 3},
}
STUDY["base"]["layers"] = 3
KEYS = st.text("abc.\"'= #[]\\ü", min_size=1, max_size=6)
LEAVES = st.one_of(
    st.integers(-(2**62), 2**62), st.floats(), st.booleans(), st.text(max_size=4), st.lists(st.integers(), max_size=3)
)
JUNK = st.one_of(
    LEAVES,
    st.sampled_from(
        [0, -1, 1, 1e300, float("nan"), "", "tpe", "grid", "none", "../x", "7:00", True, [], {}, [[1]], 10**12]
    ),
    st.dictionaries(KEYS, LEAVES, max_size=2),
    st.lists(st.one_of(LEAVES, st.dictionaries(KEYS, LEAVES, max_size=2)), max_size=3),
)
TABLES = st.dictionaries(
    KEYS,
    st.recursive(LEAVES, lambda inner: st.dictionaries(KEYS, inner, min_size=1, max_size=3), max_leaves=6),
    max_size=4,
)


def paths(content: dict[str, Any], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every path of keys, tables included."""
    paths_so_far = []
    for key, value in content.items():
        paths_so_far.append((*prefix, key))
        if isinstance(value, dict):
            paths_so_far += paths(value, (*prefix, key))
    return paths_so_far


@settings(deadline=None)
@given(content=TABLES)
def test_every_key_of_a_file_is_found_at_its_line(content: dict[str, Any]) -> None:
    text = tomli_w.dumps(content)
    assert set(key_lines(text)) == set(paths(tomllib.loads(text)))
    lines = text.split("\n")
    for path, number in key_lines(text).items():
        # Each line, read on its own, ends in the key that it is said to hold.
        line = lines[number - 1]
        assert any(repr(key)[1:-1] in line or key in line or tomli_w.dumps({key: 0})[:-5] in line for key in path)


def shuffled(draw: st.DrawFn, value: Any) -> Any:
    """The same mapping with its keys in another order, at every depth."""
    if not isinstance(value, dict):
        return value
    return {key: shuffled(draw, value[key]) for key in draw(st.permutations(list(value)))}


@st.composite
def reordered_studies(draw: st.DrawFn) -> dict[str, Any]:
    """The study with its tables and keys in any order."""
    return {**shuffled(draw, STUDY)}


@settings(deadline=None, max_examples=50)
@given(content=reordered_studies())
def test_the_order_of_keys_leaves_the_fingerprint(content: dict[str, Any]) -> None:
    assert StudySpec.model_validate(content).fingerprint() == StudySpec.model_validate(STUDY).fingerprint()


@st.composite
def spoilt_studies(draw: st.DrawFn) -> dict[str, Any]:
    """The study with some of its keys set to anything, removed or misspelt."""
    content = copy.deepcopy(STUDY)
    for _ in range(draw(st.integers(1, 3))):
        *parents, leaf = draw(st.sampled_from(paths(content)))
        table = content
        for key in parents:
            table = table[key]
        what = draw(st.sampled_from(["set", "set", "remove", "misspell"]))
        if what == "set":
            table[leaf] = draw(JUNK)
        else:
            value = table.pop(leaf)
            if what == "misspell":
                table[f"{leaf}x"] = value
        if not content:
            break
    return content


@settings(deadline=None, max_examples=150)
@given(content=spoilt_studies())
def test_a_spoilt_study_is_loaded_or_refused_with_the_lines(content: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "night.toml"
        path.write_text(tomli_w.dumps(content), encoding="utf-8")
        count = len(path.read_text(encoding="utf-8").split("\n"))
        try:
            load(path)
        except StudyFileError as error:
            first, *_ = str(error).splitlines()
            numbers = re.findall(rf"^{re.escape(str(path))}:(\d+) ", str(error), re.MULTILINE)
            assert re.match(rf"{re.escape(str(path))}:\d+ ", first), first
            assert all(1 <= int(number) <= count for number in numbers)
            assert [int(number) for number in numbers] == sorted(map(int, numbers))


def test_the_study_itself_is_sound() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "night.toml"
        path.write_text(tomli_w.dumps(STUDY))
        assert load(path).spec.name == "night"
