import os

import pytest
import torch
from small_model import VOCAB_SIZE, small_model

from model.config import TrainConfig
from model.inference.export import export
from model.inference.weights_reader import find_weights, read_weights


def exported(folder):
    model = small_model()
    return model, export(folder, dict(model.named_parameters()), model.config, VOCAB_SIZE, eos_id=0)


def touched(path, seconds):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    os.utime(path, (seconds, seconds))
    return path


def test_an_export_is_found_by_itself_by_its_file_and_in_a_run(tmp_path):
    _, folder = exported(tmp_path / "export")
    touched(tmp_path / "checkpoints" / "a-1.safetensors", 2)
    for path in (tmp_path, folder, folder / "model.safetensors"):
        assert find_weights(path) == folder


def test_without_an_export_the_newest_checkpoint_counts(tmp_path):
    newest = touched(tmp_path / "checkpoints" / "a-1.safetensors", 20)
    older = touched(tmp_path / "checkpoints" / "a-2.safetensors", 10)
    assert find_weights(tmp_path) == find_weights(tmp_path / "checkpoints") == newest
    assert find_weights(older) == older


def test_nothing_there_is_said_apart_from_nothing_trained(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no trained model"):
        find_weights(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        find_weights(tmp_path / "none")


def test_an_export_without_results_is_its_weights_and_their_shape(tmp_path):
    model, _ = exported(tmp_path)
    trained = read_weights(tmp_path)

    assert trained.config.model.d_model == model.config.d_model
    assert trained.config.optim == TrainConfig().optim
    assert (trained.vocab_size, trained.eos_id, trained.tokenizer_path) == (128, 0, None)
    assert (trained.device, trained.data_hash, trained.evaluation) == ("", "", {})
    assert trained.normalises

    for name, weight in model.named_parameters():
        assert torch.equal(trained.weights[name], weight), name


def test_a_torn_file_is_named(tmp_path):
    path = touched(tmp_path / "torn.safetensors", 1)
    with pytest.raises(ValueError, match=r"torn\.safetensors cannot be read"):
        read_weights(path)
