import numpy as np
import pytest

from model.data.errors import CorpusError
from model.data.token_files import check_ids, open_token_file


def test_an_id_outside_the_vocabulary_is_named_with_its_position(tmp_path):
    ids = np.array([1, 9, 10, 12], dtype=np.uint16)
    check_ids(tmp_path, ids, 13)
    with pytest.raises(CorpusError, match="token id 10 at position 2, but the vocabulary has 10"):
        check_ids(tmp_path, ids, 10)


def test_both_kinds_of_files_are_mapped(tmp_path):
    ids = np.array([5, 70_000], dtype=np.uint32)
    ids.tofile(tmp_path / "ids.bin")
    np.save(tmp_path / "ids.npy", ids)

    for path in (tmp_path / "ids.bin", tmp_path / "ids.npy"):
        mapped = open_token_file(path, "uint32", 70_001)
        assert isinstance(mapped, np.memmap)
        assert mapped.tolist() == [5, 70_000]


def test_a_table_of_ids_is_refused(tmp_path):
    np.save(tmp_path / "table.npy", np.zeros((2, 3), dtype=np.uint16))
    with pytest.raises(CorpusError, match=r"uint16 of shape \(2, 3\); token ids are flat"):
        open_token_file(tmp_path / "table.npy", "uint16", 100)
