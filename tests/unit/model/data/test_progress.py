"""What is heard of a text while it is prepared."""

import re

from model.data import progress
from model.data.progress import Preparation


def test_amounts_speed_and_the_time_that_is_left_are_said(monkeypatch):
    monkeypatch.setattr(progress, "_EVERY_S", 0.0)
    said = []
    heard = Preparation(said.append)
    heard.begin('fetching "org/name"', 120_000_000, "tokens", there=30_000_000)
    heard.fetched(5_000_000)
    heard.prepared(30_000_000)
    heard.held_up("no answer for 12 s (ConnectError), trying again")

    assert said[0] == 'fetching "org/name": 30M of 120M tokens (25%)'
    words = r'fetching "org/name": 60M of 120M tokens \(50%\), 5.0 MB fetched at \S+ MB/s, about \d+ s left'
    assert re.fullmatch(words, said[2])
    assert re.fullmatch(words + r"; no answer for 12 s \(ConnectError\), trying again", said[3])


def test_nothing_is_said_after_the_end_and_little_where_it_is_printed(capsys):
    heard = Preparation()
    heard.note("looking for the files")
    heard.begin("fetching", 100, "tokens")
    heard.prepared(1)
    heard.prepared(1)
    heard.close()
    heard.note("never said")
    assert capsys.readouterr().err == "looking for the files\nfetching: 0 of 100 tokens (0%)\n"
