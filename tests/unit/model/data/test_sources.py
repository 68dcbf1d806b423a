import os

import pytest

from model.config import DataConfig
from model.data import sources
from model.data.errors import CorpusError
from model.data.files import file_identity, find_files
from model.data.sources import open_documents


def write(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {name}", encoding="utf-8")


def names_of(folder, path):
    return [str(file.relative_to(folder)) for file in find_files(str(path))]


def test_a_path_is_a_file_a_folder_or_a_glob(tmp_path):
    write(tmp_path, "b.txt", "a.txt", "deep/c.txt", "deep/d.md", ".git/index", "deep/.hidden")
    assert names_of(tmp_path, tmp_path / "b.txt") == ["b.txt"]
    assert names_of(tmp_path, tmp_path) == ["a.txt", "b.txt", "deep/c.txt", "deep/d.md"]
    assert names_of(tmp_path, tmp_path / "**" / "*.txt") == ["a.txt", "b.txt", "deep/c.txt"]


def test_a_glob_of_folders_alone_has_no_files(tmp_path):
    write(tmp_path, "deep/c.txt")
    for path in (tmp_path / "dee*", tmp_path / "none"):
        with pytest.raises(CorpusError, match="no file at"):
            find_files(str(path))


def test_an_edited_or_replaced_file_has_another_identity(tmp_path):
    write(tmp_path, "a.txt")
    path = tmp_path / "a.txt"
    before = file_identity([path])

    assert file_identity([path]) == before

    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))

    assert file_identity([path]) != before


def test_a_long_file_is_cut_at_blank_lines_unless_that_is_not_wanted(tmp_path):
    paragraphs = [f"paragraph {number} " + "word " * 100 for number in range(100)]
    (tmp_path / "book.txt").write_text("\n\n".join(paragraphs), encoding="utf-8")
    config = DataConfig(source="text", path=str(tmp_path / "book.txt"))

    cut = open_documents(config)
    texts = list(cut.read())

    assert "cut at blank lines" in cut.notices_of_reading()[0]
    assert "\n\n".join(texts) == "\n\n".join(paragraphs)

    sizes = [len(text) for text in texts[:-1]]
    assert 10 < len(texts) < 30
    assert min(sizes) >= 50_000 // 20

    whole = open_documents(config, cut=False)
    assert whole.notices == whole.notices_of_reading() == ()
    assert list(whole.read()) == ["\n\n".join(paragraphs)]


def test_documents_can_be_read_again(tmp_path):
    write(tmp_path, "a.txt", "b.txt")
    documents = open_documents(DataConfig(source="text", path=str(tmp_path)))
    assert list(documents.read()) == list(documents.read()) == ["text of a.txt", "text of b.txt"]


def test_the_standard_library_is_read_without_tests_and_packages():
    texts = open_documents(DataConfig(source="stdlib"))
    assert texts.identity[0] == "stdlib"
    assert sum(len(text) for _, text in zip(range(20), texts.read(), strict=False)) > 10_000
    assert {"test", "site-packages"} <= sources._STDLIB_SKIPPED_FOLDERS


def test_token_ids_are_no_documents(tmp_path):
    write(tmp_path, "a.bin")
    with pytest.raises(CorpusError, match='source "tokens" holds token ids, not documents'):
        open_documents(DataConfig(source="tokens", path=str(tmp_path / "a.bin")))
