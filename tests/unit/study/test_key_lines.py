"""The line of every key of a TOML text."""

from __future__ import annotations

import tomllib

import pytest

from autotune.study.key_lines import key_lines

TEXT = '''\
# name = "not a key"
name = "night"  # seed = 3
title = """
budget = 4
[finals]
"""
trainer.x = "a = b"

[budget]
tokens = 1_000
  trials=3

[base.model]
d_ff = 8
"quoted.key" = 1
'single' = 2

[space]
"optim.lr" = {low = 0.1, high = 1.0}
"a = b" = {choices = [1]}
many = {choices = [
    1,  # seed = 4
    2,
]}
nested = [
[1],
["x = 1"],
]
after = 5

[space."optim.beta"]
low = 0.5
'''


def test_lines_by_hand() -> None:
    tomllib.loads(TEXT)
    assert key_lines(TEXT) == {
        ("name",): 2,
        ("title",): 3,
        ("trainer",): 7,
        ("trainer", "x"): 7,
        ("budget",): 9,
        ("budget", "tokens"): 10,
        ("budget", "trials"): 11,
        ("base",): 13,
        ("base", "model"): 13,
        ("base", "model", "d_ff"): 14,
        ("base", "model", "quoted.key"): 15,
        ("base", "model", "single"): 16,
        ("space",): 18,
        ("space", "optim.lr"): 19,
        ("space", "a = b"): 20,
        ("space", "many"): 21,
        ("space", "nested"): 25,
        ("space", "after"): 29,
        ("space", "optim.beta"): 31,
        ("space", "optim.beta", "low"): 32,
    }


def test_nothing_in_nothing() -> None:
    assert key_lines("") == key_lines("# only = a comment\n\n") == {}


@pytest.mark.parametrize("separator", ["\x85", "\u2028", "\u2029"])
def test_only_a_newline_ends_a_line(separator: str) -> None:
    assert key_lines(f'title = "a{separator}b"\r\nname = "n"\n') == {("title",): 1, ("name",): 2}


def test_tables_of_an_array_are_numbered() -> None:
    text = "[[a.b]]\nx = 1\n\n[[a.b]]\nx = 2\n[a.b.c]\ny = 3\n"
    lines = key_lines(text)
    assert (lines["a", "b", "0", "x"], lines["a", "b", "1"], lines["a", "b", "1", "x"]) == (2, 4, 5)


def test_what_looks_like_a_bracket_a_key_or_an_end_within_a_text() -> None:
    text = (
        'a = "[ # = \\" ] "\n'
        "b = '[{'\n"
        'c = """ ""\n[x]\ny = 1\n"""""\n'
        "d = '''[\n'''\n"
        "e = [ # ]\n  {f = [1]},\n]\n"
        '"g = 1" = 2 # h = 3\n'
        "['i.j'.k]\n"
        "l.m = 1\n"
    )
    tomllib.loads(text)
    lines = key_lines(text)
    assert [(".".join(path), line) for path, line in lines.items()] == [
        ("a", 1), ("b", 2), ("c", 3), ("d", 7), ("e", 9), ("g = 1", 12), ("i.j", 13), ("i.j.k", 13), ("i.j.k.l", 14),
        ("i.j.k.l.m", 14),
    ]  # fmt: skip
