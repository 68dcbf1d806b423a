"""What decides the losses of a training beside its settings and its seed: card, dtype, versions, code and text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

_HASH_DIGITS = 12
"""Digits of a hash that a sentence shows."""


@dataclass(frozen=True)
class Setup:
    """What a process trains with; what is not known of it is empty, and then not compared.

    Args:
        card: Name of the GPU, or the CPU's model.
        dtype: What trainings compute in: "bf16", "fp16" or "fp32"; "" if the trainer has no such setting.
        versions: Versions of packages that decide a loss, by their name.
        code: Hash of the trainer's code.
        text: Hash of the data.
    """

    card: str
    dtype: str = ""
    versions: Mapping[str, str] | None = None
    code: str = ""
    text: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able form; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Setup:
        """Read what `to_json` wrote."""
        return cls(**raw)

    @property
    def device(self) -> str:
        """Card and dtype, in words."""
        return f"{self.card} in {self.dtype}" if self.dtype else self.card

    def differences(self, of_study: Setup) -> tuple[str, ...]:
        """Return what is different in this process from what a study was begun with, a sentence each.

        Args:
            of_study: What the study was begun with.
        """
        said = []
        if self.device != of_study.device:
            said.append(f"this machine trains on {self.device}, the study on {of_study.device}")
        for package, here, there in self._other_versions(of_study):
            said.append(f"{package} is {here} here, the study's is {there}")

        for what, here, there in (
            ("the trainer's code", self.code, of_study.code),
            ("the text", self.text, of_study.text),
        ):
            if _differ(here, there):
                hashes = f"its hash is {here[:_HASH_DIGITS]}, the study's is {there[:_HASH_DIGITS]}"
                said.append(f"{what} is another one here: {hashes}")
        return tuple(said)

    def device_class(self, of_study: Setup) -> str:
        """Return the name of what trains alike: the device and, where they are not the study's, versions and code.

        Args:
            of_study: What the study was begun with.
        """
        parts = [self.device, *(f"{package} {here}" for package, here, _ in self._other_versions(of_study))]
        if _differ(self.code, of_study.code):
            parts.append(f"trainer's code {self.code[:_HASH_DIGITS]}")
        return ", ".join(parts)

    def _other_versions(self, of_study: Setup) -> list[tuple[str, str, str]]:
        own, others = self.versions or {}, of_study.versions or {}
        return [
            (name, own[name], others[name]) for name in sorted(own.keys() & others.keys()) if own[name] != others[name]
        ]


def _differ(here: str, there: str) -> bool:
    """Return whether two hashes are known and different."""
    return bool(here and there and here != there)


@dataclass(frozen=True)
class Device:
    """What a process trains on, among others that share a study.

    Args:
        name: Its class, as `Setup.device_class` gives it; "" where all that share the study are alike.
        memory_bytes: What a training may use there.
    """

    name: str = ""
    memory_bytes: int = 0

    def is_enough_for(self, needs_bytes: int) -> bool:
        """Return whether it may hold what did not fit into some memory.

        Args:
            needs_bytes: That memory; 0 for what was never tried.
        """
        return not needs_bytes or not self.name or self.memory_bytes > needs_bytes


ALIKE = Device()
"""What a process trains on where all that share its study are alike, or where nobody does."""
