import os

import pytest
import torch

from model.training import checkpoint

STATE = {"micro_step": 3, "points": [{"val_loss": 0.1 + 0.2}]}


def save(folder, micro_step, keep=3, identity="abc"):
    tensors = {"w": torch.arange(6.0).view(2, 3) + micro_step, "n": torch.tensor(7, dtype=torch.int32)}
    return checkpoint.save(folder, identity, micro_step, tensors, STATE | {"micro_step": micro_step}, keep)


def newest(folder, identity="abc"):
    newest_one, notices = checkpoint.load_newest(folder, identity)
    return (newest_one.state["micro_step"] if newest_one else None), notices


def test_comes_back_bit_for_bit(tmp_path):
    save(tmp_path, 3)
    newest_one, notices = checkpoint.load_newest(tmp_path, "abc")

    assert notices == []
    assert torch.equal(newest_one.tensors["w"], torch.arange(6.0).view(2, 3) + 3)
    assert newest_one.tensors["n"].dtype == torch.int32
    assert newest_one.tensors["n"].shape == ()
    assert newest_one.state == STATE


def test_keeps_the_newest_of_its_own_identity(tmp_path):
    save(tmp_path, 1, identity="other")
    for micro_step in (5, 10, 100):
        save(tmp_path, micro_step, keep=2)

    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "abc-000000010.safetensors",
        "abc-000000100.safetensors",
        "other-000000001.safetensors",
    ]
    assert newest(tmp_path) == (100, [])
    assert newest(tmp_path, "other") == (1, [])
    assert newest(tmp_path, "none") == (None, [])


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: os.truncate(path, path.stat().st_size // 2),
        lambda path: os.truncate(path, path.stat().st_size - 1),
        lambda path: os.truncate(path, 0),
        lambda path: path.write_bytes(b"\0" * path.stat().st_size),
        flip_a_byte,
    ],
)
def test_a_damaged_newest_falls_back_with_a_notice(tmp_path, damage):
    save(tmp_path, 1)
    save(tmp_path, 2)
    damage(save(tmp_path, 3))
    micro_step, notices = newest(tmp_path)

    assert micro_step == 2
    assert len(notices) == 1
    assert "abc-000000003.safetensors is damaged" in notices[0]


def test_strays_of_an_interrupted_save_are_swept(tmp_path):
    stray = tmp_path / "abc-000000009.tmp"
    stray.write_bytes(b"half")
    assert newest(tmp_path) == (None, [])
    assert not stray.exists()


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def torn(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", torn)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, 2)
    assert newest(tmp_path) == (1, [])
