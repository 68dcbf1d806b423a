"""Dotted paths of nested configs."""

from __future__ import annotations

import pytest

from autotune.core.config_paths import drop_unknown_paths, flatten, get_path, with_paths

BASE = {"optim": {"lr": 0.01, "name": "adam", "beta": 0.9}, "model": {"layers": 2, "width": 64}}


def test_a_path_that_does_not_exist_is_named_whole() -> None:
    for path in ("optim.lrr", "optim.lr.x", "nothing"):
        with pytest.raises(KeyError) as caught:
            get_path(BASE, path)
        assert caught.value.args == (path,)
        with pytest.raises(KeyError):
            with_paths(BASE, {path: 1})


def test_with_paths_leaves_its_argument_alone() -> None:
    changed = with_paths(BASE, {"optim.lr": 1.0, "model": {"layers": 9}})
    assert (changed["optim"]["lr"], changed["model"]) == (1.0, {"layers": 9})
    assert (BASE["optim"]["lr"], BASE["model"]["layers"]) == (0.01, 2)
    assert changed["optim"] is not BASE["optim"]


def test_flatten_by_hand() -> None:
    assert flatten({"a": 1, "b": {"c": 2, "d": {"e": [3]}}}) == {"a": 1, "b.c": 2, "b.d.e": [3]}


def test_only_the_values_that_a_config_has_are_kept() -> None:
    values = {"optim.lr": 0.1, "optim.momentum": 0.9, "system.device": "cuda", "model": 3}
    assert drop_unknown_paths(BASE, values) == {"optim.lr": 0.1}
