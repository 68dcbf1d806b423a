"""Pieces of a text on the disk: whole or not there, whatever was killed."""

import os
import time

import numpy as np

from model.config import DataConfig
from model.data.hub.corpus import pieces_folder, remove_pieces
from model.data.hub.pieces import Pieces, document_table
from model.data.hub.rows import Place
from model.data.hub.shards import Shards
from model.data.token_bytes import DocumentBytes


def add(pieces, number, tokens=4):
    """One document as a piece."""
    ids = np.full(tokens, number, dtype=np.uint16)
    pieces.add_ids(
        ids, document_table([(number, 4, tokens, False, DocumentBytes(tokens, 0, 4, 4, 4, 4))]), 1, Place(number, 7)
    )


def test_pieces_are_found_again_with_the_row_that_follows(tmp_path):
    pieces = Pieces(tmp_path / "hub" / "a")
    pieces.store_shards(Shards("json", ("a.jsonl", "b.jsonl"), {"field": "rows"}))
    for number in range(3):
        add(pieces, number)

    again = Pieces(tmp_path / "hub" / "a")
    assert (again.next, again.amount, again.nulls) == (Place(2, 7), 12, 3)
    assert again.stored_shards() == Shards("json", ("a.jsonl", "b.jsonl"), {"field": "rows"})
    assert again.documents()["hash"].tolist() == [0, 1, 2]

    again.write_split(tmp_path / "ids", "uint16", np.array([True, False, True]))
    assert np.fromfile(tmp_path / "ids", "uint16").tolist() == [0] * 4 + [2] * 4


def test_what_a_kill_left_half_done_is_removed_and_the_pieces_before_it_stay(tmp_path):
    folder = tmp_path / "hub" / "a"
    pieces = Pieces(folder)
    for number in range(3):
        add(pieces, number)
    os.truncate(folder / "000001.data", 3)
    (folder / "000003.data.partial").touch()

    again = Pieces(folder)
    assert again.next == Place(0, 7)
    assert sorted(path.name for path in folder.iterdir()) == ["000000.data", "000000.docs", "000000.json"]


def test_pieces_without_the_shards_that_they_are_of_begin_anew(tmp_path):
    pieces = Pieces(tmp_path / "hub" / "a")
    add(pieces, 0)
    assert pieces.stored_shards() is None
    assert Pieces(tmp_path / "hub" / "a").pieces == []


def test_pieces_that_nobody_goes_on_with_are_removed_one_day(tmp_path):
    old, young = tmp_path / "hub" / "old", tmp_path / "hub" / "young"
    for folder in (old, young):
        add(Pieces(folder), 0)
    long_ago = time.time() - 30 * 86400
    os.utime(old, (long_ago, long_ago))

    Pieces(tmp_path / "hub" / "new")
    assert not old.exists()
    assert young.exists()


def test_the_text_that_an_earlier_version_kept_is_removed_with_the_pieces(tmp_path):
    config = DataConfig(source="hub", name="org/mix", subset="en", max_tokens=1000, cache_dir=str(tmp_path))
    pieces = Pieces(pieces_folder(config, "hub-1"))
    for name in ("org_mix-en-text-1000.jsonl", "org_mix-en-text-1000.17.partial", "org_mix-de-text-1000.jsonl"):
        (pieces.folder.parent / name).touch()

    remove_pieces(config, "hub-1")
    assert [path.name for path in pieces.folder.parent.iterdir()] == ["org_mix-de-text-1000.jsonl"]
