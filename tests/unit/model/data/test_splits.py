import numpy as np
import pytest

from model.data.sources import CorpusError
from model.data.splits import check_ids, choose_validation, hash_ids, open_ids, split_ids

DOCUMENTS = [f"document {number} " * 10 for number in range(50)]


def test_about_the_share_is_held_out():
    held_out = choose_validation(DOCUMENTS, 0.2)
    assert 9 <= sum(held_out) <= 12


@pytest.mark.parametrize("val_frac", [0.001, 0.999])
def test_each_side_gets_a_document(val_frac):
    assert 0 < sum(choose_validation(DOCUMENTS[:3], val_frac)) < 3


def test_equal_documents_are_on_one_side_and_one_kind_cannot_be_split():
    held_out = choose_validation([*DOCUMENTS, *DOCUMENTS], 0.3)
    assert held_out[:50] == held_out[50:]
    with pytest.raises(CorpusError, match="1 different documents; at least 2 are needed"):
        choose_validation(["the same"] * 5, 0.3)


def test_ids_are_split_at_the_ends_of_documents():
    documents = [[number + 1] * (number + 3) + [0] for number in range(20)]
    ids = np.concatenate(documents).astype(np.uint16)
    train, val = split_ids(ids, 0.3, eos_id=0)

    for split in (train, val):
        assert split[-1] == 0
        for piece in np.split(split, np.flatnonzero(split == 0) + 1)[:-1]:
            assert piece.tolist() in documents

    assert sorted([*train, *val]) == sorted(ids)


def test_without_an_end_of_text_the_tail_is_held_out():
    train, val = split_ids(np.arange(10, dtype=np.uint16), 0.25, eos_id=None)
    assert (train.tolist(), val.tolist()) == (list(range(8)), [8, 9])
    _, val = split_ids(np.arange(10, dtype=np.uint16), 0.01, eos_id=None)
    assert val.tolist() == [9]


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
        mapped = open_ids(path, "uint32")
        assert isinstance(mapped, np.memmap)
        assert mapped.tolist() == [5, 70_000]


def test_a_table_of_ids_is_refused(tmp_path):
    np.save(tmp_path / "table.npy", np.zeros((2, 3), dtype=np.uint16))
    with pytest.raises(CorpusError, match=r"uint16 of shape \(2, 3\); token ids are flat"):
        open_ids(tmp_path / "table.npy", "uint16")


def test_the_hash_knows_where_one_split_ends_but_not_the_number_format():
    ids = np.arange(10, dtype=np.uint16)
    assert hash_ids([ids, ids[:3]]) == hash_ids([ids.astype(np.uint32), ids[:3]])
    assert hash_ids([ids[:5], ids[5:]]) != hash_ids([ids[:6], ids[6:]])
