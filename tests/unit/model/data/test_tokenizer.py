import pytest
from tokenizers import Tokenizer

from model.data.errors import CorpusError
from model.data.token_bytes import count_token_bytes
from model.data.tokenizer import END_OF_TEXT, end_of_text_id, load_tokenizer, train_bpe

DOCUMENTS = ["the state of our union is strong", "the people of these united states", "a café ☕ in the union"] * 3


def test_byte_counts_of_a_byte_level_vocabulary():
    tokenizer = train_bpe(DOCUMENTS, 300)
    counts = count_token_bytes(tokenizer)
    for text in ("state of the union", "Café ☕ 漢字\n\t", "\x00\xff"):
        assert counts[tokenizer.encode(text).ids].sum() == len(text.encode())
    assert counts[tokenizer.token_to_id(END_OF_TEXT)] == 0


def test_a_small_corpus_gives_a_smaller_vocabulary():
    assert train_bpe(["aaaa"], 300).get_vocab_size() < 300


def test_a_tokenizer_folder_loads_and_one_without_an_end_is_refused(tmp_path):
    from tokenizers import models

    train_bpe(DOCUMENTS, 300).save(str(tmp_path / "tokenizer.json"))
    assert end_of_text_id(load_tokenizer(str(tmp_path))) == 0
    with pytest.raises(CorpusError, match="no end-of-text token"):
        end_of_text_id(Tokenizer(models.BPE()))
