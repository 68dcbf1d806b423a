"""What a mirror believes: manifests and contents that are exactly what was written, and nothing outside of a study."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zlib
from pathlib import Path

import pytest

from autotune.store.mirror import Content, Done, Manifest, Mirror, TornError


def put(mirror: Mirror, data: bytes, compressed: bool = True) -> Content:
    """Puts a content into a mirror, without what is tested."""
    sha256 = hashlib.sha256(data).hexdigest()
    stored = zlib.compress(data) if compressed else data
    path = mirror.object(sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(stored)
    return Content(sha256, len(data), len(stored), compressed, 1_700_000_000.5)


def manifest_of(files: dict[str, Content], generation: int = 1) -> Manifest:
    return Manifest(generation, "ab12", "host", 1_700_000_001.25, "2026-01-01T00:00:00", Done(3, 40), files)


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    return Mirror(tmp_path / "drive" / "study")


def test_a_manifest_reads_back_as_it_was_written(mirror: Mirror) -> None:
    manifest = manifest_of({"trials/0001/log.txt": put(mirror, b"one")})
    assert Manifest.from_text(manifest.to_text()) == manifest


def test_no_cut_of_a_manifest_is_taken_for_one(mirror: Mirror) -> None:
    text = manifest_of({"a": put(mirror, b"one")}).to_text()
    for length in range(len(text) - 1):  # the last character is a newline
        with pytest.raises(TornError):
            Manifest.from_text(text[:length])


@pytest.mark.parametrize("change", [{"generation": 2}, {"done": [99, 0]}, {"files": {}}, {"format": 2}])
def test_a_changed_manifest_is_torn(mirror: Mirror, change: dict[str, object]) -> None:
    fields = json.loads(manifest_of({"a": put(mirror, b"one")}).to_text())
    with pytest.raises(TornError):
        Manifest.from_text(json.dumps({**fields, **change}))


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "", "a\0b"])
def test_a_manifest_names_no_file_outside(mirror: Mirror, name: str) -> None:
    with pytest.raises(TornError, match="outside"):
        Manifest.from_text(manifest_of({name: put(mirror, b"one")}).to_text())


def test_a_manifest_names_no_content_outside(mirror: Mirror) -> None:
    strange = dataclasses.replace(put(mirror, b"one"), sha256="../../../etc/passwd")
    with pytest.raises(TornError, match="outside"):
        Manifest.from_text(manifest_of({"a": strange}).to_text())


def test_the_newest_comes_first_and_torn_ones_are_told_apart(mirror: Mirror) -> None:
    mirror.snapshots.mkdir(parents=True)
    for generation in (2, 11, 3):
        manifest = manifest_of({}, generation)
        (mirror.snapshots / manifest.name).write_text(manifest.to_text())
    (mirror.snapshots / "00000012-ab12.json").write_text("{")
    (mirror.snapshots / ".00000013-ab12.json.tmp").write_text("{")
    whole, torn = mirror.manifests()
    assert [manifest.generation for manifest in whole] == [11, 3, 2]
    assert list(torn) == ["00000012-ab12.json"]
    assert mirror.last_generation() == 12


def test_an_empty_mirror_has_nothing(mirror: Mirror) -> None:
    assert mirror.manifests() == ([], {})
    assert mirror.last_generation() == 0


@pytest.mark.parametrize("compressed", [True, False])
def test_restores_files_with_their_times(mirror: Mirror, tmp_path: Path, compressed: bool) -> None:
    data = {"study.db": bytes(range(256)) * 40_000, "trials/0001/log.txt": b"one", "empty": b""}
    files = {name: put(mirror, content, compressed) for name, content in data.items()}
    target = tmp_path / "restored"
    (target / "stray").mkdir(parents=True)
    mirror.restore(manifest_of(files), target)
    restored = {path.relative_to(target).as_posix(): path for path in target.rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in restored.items()} == data
    assert {path.stat().st_mtime for path in restored.values()} == {1_700_000_000.5}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-6])


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("damage", [cut, flip, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_damaged_content_restores_nothing(mirror: Mirror, tmp_path: Path, compressed: bool, damage) -> None:
    sound, content = put(mirror, b"sound"), put(mirror, b"damaged" * 100, compressed)
    damage(mirror.object(content.sha256))
    assert not mirror.is_whole(content)
    with pytest.raises(TornError, match="z-last"):
        mirror.restore(manifest_of({"a": sound, "z-last": content}), tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


def test_a_content_that_hides_much_is_read_in_pieces(mirror: Mirror) -> None:
    content = put(mirror, bytes(50_000_000))
    assert content.stored_bytes < 100_000
    pieces = list(map(len, mirror.read(content)))
    assert sum(pieces) == 50_000_000 and max(pieces) <= 4 << 20
