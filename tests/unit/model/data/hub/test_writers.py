"""Batches on their way to pieces: each is in one as a whole or not at all, whatever comes meanwhile."""

import pytest

from model.data.hub.pieces import Pieces
from model.data.hub.rows import Batch, Place
from model.data.hub.writers import IdsWriter
from model.data.tokenizer import train_bpe


class Interrupting(str):
    """A text at which Ctrl-C comes."""

    def encode(self, encoding="utf-8", errors="strict"):
        raise KeyboardInterrupt


def test_a_batch_in_which_ctrl_c_comes_is_read_again_as_a_whole(tmp_path):
    tokenizer = train_bpe(["some text to learn from"] * 4, 300)
    pieces = Pieces(tmp_path / "hub" / "a")
    writer = IdsWriter(pieces, tokenizer, 0, "uint16", 10**6)
    writer.take(Batch(["one", "two"], 1, Place(0, 3)))
    with pytest.raises(KeyboardInterrupt):
        writer.take(Batch(["three", Interrupting("four"), "five"], 0, Place(0, 6)))
    writer.keep()

    assert (pieces.next, pieces.nulls, len(pieces.documents())) == (Place(0, 3), 1, 2)


def test_a_piece_that_could_not_be_written_is_not_written_again(tmp_path, monkeypatch):
    """Nobody knows whether it is there: what the next attempt finds decides."""
    pieces = Pieces(tmp_path / "hub" / "a")
    writer = IdsWriter(pieces, train_bpe(["some text"] * 4, 300), 0, "uint16", 10**6)
    writer.take(Batch(["one"], 0, Place(0, 1)))

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pieces, "add_ids", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer.keep()
    monkeypatch.undo()
    writer.keep()
    assert pieces.pieces == []
