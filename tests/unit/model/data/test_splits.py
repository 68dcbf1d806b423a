import numpy as np
import pytest

from model.data.errors import CorpusError
from model.data.splits import choose_validation, hash_ids, split_ids

DOCUMENTS = [f"document {number} " * 10 for number in range(50)]


def test_about_the_share_is_held_out():
    held_out = choose_validation(DOCUMENTS, 0.2).is_val
    assert 9 <= sum(held_out) <= 12


@pytest.mark.parametrize("val_frac", [0.001, 0.999])
def test_each_side_gets_a_document(val_frac):
    assert 0 < sum(choose_validation(DOCUMENTS[:3], val_frac).is_val) < 3


def test_equal_documents_are_on_one_side_and_one_kind_cannot_be_split():
    held_out = choose_validation([*DOCUMENTS, *DOCUMENTS], 0.3).is_val
    assert held_out[:50] == held_out[50:]
    with pytest.raises(CorpusError, match="1 different documents; at least 2 are needed"):
        choose_validation(["the same"] * 5, 0.3)


def test_ids_are_split_at_the_ends_of_documents():
    documents = [[number + 1] * (number + 3) + [0] for number in range(20)]
    ids = np.concatenate(documents).astype(np.uint16)
    (train, val), _ = split_ids(ids, 0.3, eos_id=0)

    for split in (train, val):
        assert split[-1] == 0
        for piece in np.split(split, np.flatnonzero(split == 0) + 1)[:-1]:
            assert piece.tolist() in documents

    assert sorted([*train, *val]) == sorted(ids)


def test_without_an_end_of_text_the_tail_is_held_out():
    (train, val), _ = split_ids(np.arange(10, dtype=np.uint16), 0.25, eos_id=None)
    assert (train.tolist(), val.tolist()) == (list(range(8)), [8, 9])
    (_, val), _ = split_ids(np.arange(10, dtype=np.uint16), 0.01, eos_id=None)
    assert val.tolist() == [9]


def test_the_hash_knows_where_one_split_ends_but_not_the_number_format():
    ids = np.arange(10, dtype=np.uint16)
    assert hash_ids([ids, ids[:3]]) == hash_ids([ids.astype(np.uint32), ids[:3]])
    assert hash_ids([ids[:5], ids[5:]]) != hash_ids([ids[:6], ids[6:]])


def test_a_document_with_which_far_too_much_would_be_held_out_is_passed_over():
    large = "a large document " * 1000
    held_out = choose_validation([*DOCUMENTS, large], 0.1)
    assert not held_out.is_val[50]
    assert choose_validation(DOCUMENTS, 0.1).is_near(0.1)


def test_long_documents_of_ids_are_cut_where_whole_ones_cannot_be_divided():
    random = np.random.default_rng(0)
    documents = [random.integers(1, 500, 20) for _ in range(10)] + [random.integers(1, 500, 40_000)]
    ids = np.concatenate([[*document, 0] for document in documents]).astype(np.uint16)
    (train, val), notices = split_ids(ids, 0.1, eos_id=0)

    assert 0.05 < len(val) / len(ids) < 0.2
    assert len(train) + len(val) == len(ids)
    assert "documents of more than 1,005 token ids are cut" in notices[0]
