"""Checkpoints: one safetensors file each, written atomically and checked when read."""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

SUFFIX = ".safetensors"
_TEMPORARY_SUFFIX = ".tmp"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds: tensors, on the CPU, and everything else as JSON values."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save(
    folder: Path,
    identity: str,
    place: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write a checkpoint so that a crash at any moment leaves the old ones or the new one, never half of one.

    Args:
        folder: Folder of the checkpoints; made if absent.
        identity: Name of the run (configuration, budget, data); part of the file's name.
        place: How far the run is, in any unit; orders the files.
        tensors: Tensors of any device.
        state: JSON values.
        keep: How many checkpoints of this identity to keep, at least 1; older ones are removed.

    Returns:
        The file's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    path = folder / f"{identity}-{place:09d}{SUFFIX}"
    temporary = path.with_suffix(_TEMPORARY_SUFFIX)

    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(state)
    save_file(on_cpu, temporary, metadata={"state": text, "digest": _digest(on_cpu, text)})
    as_readable_as_its_folder(temporary)
    _sync(temporary)
    temporary.replace(path)
    _sync(folder)

    for old in _newest_first(folder, identity)[keep:]:
        old.unlink()
    return path


def load_newest(folder: Path, identity: str) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest sound checkpoint of an identity.

    Args:
        folder: Folder of the checkpoints.
        identity: As `save` was given it.

    Returns:
        The checkpoint, or None where there is no sound one, and a notice for each damaged one that was passed over.
    """
    _sweep(folder)
    notices: list[str] = []

    for path in _newest_first(folder, identity):
        try:
            return read(path), notices
        except Exception as error:  # noqa: BLE001 (whatever makes it unreadable, the one before is next)
            notices.append(f"checkpoint {path.name} is damaged ({error}); falling back to the one before")

    return None, notices


def as_readable_as_its_folder(file: Path) -> None:
    """Let those read a file who can read its folder; safetensors writes for the owner alone."""
    with contextlib.suppress(OSError):  # some file systems have no modes
        file.chmod(0o600 | file.parent.stat().st_mode & 0o444)


def _sweep(folder: Path) -> None:
    """Remove what an interrupted `save` left behind."""
    for stray in folder.glob(f"*{_TEMPORARY_SUFFIX}"):
        stray.unlink(missing_ok=True)


def _newest_first(folder: Path, identity: str) -> list[Path]:
    return sorted(folder.glob(f"{identity}-*{SUFFIX}"), reverse=True)


def read(path: Path) -> Checkpoint:
    """Return what `save` wrote.

    Args:
        path: The checkpoint's file.

    Raises:
        ValueError: The content is not what was written.
        SafetensorError: The file is torn.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)

    if _digest(tensors, metadata["state"]) != metadata["digest"]:
        raise ValueError("its digest does not match its content")

    return Checkpoint(tensors, json.loads(metadata["state"]))


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """Return a hash of a checkpoint's whole content, the same for any order of its tensors."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Make a file's content, or a folder's list of names, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
