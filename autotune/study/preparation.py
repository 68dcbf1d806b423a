"""What a trainer makes ready and checks before anything is trained: its data, first of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from autotune.core.disk_faults import explain_os_error, full_disk, is_full
from autotune.core.errors import UserError, exit_code_of
from autotune.study.trainer import Trainer


def prepare(
    trainer: Trainer,
    configs: Sequence[Mapping[str, Any]],
    budget_tokens: int,
    say: Callable[[str], None],
    preparing: Callable[[str], None],
    place_of: Callable[[str], str] = str,
) -> Mapping[str, Any]:
    """Let a trainer get ready what its trainings need, before any of them.

    It happens in this process: however long it takes, nothing is taken for a hang, and Ctrl-C ends it.

    Args:
        trainer: The trainer.
        configs: Nested configs, the one that matters first.
        budget_tokens: Tokens of each training.
        say: Takes a line for a person.
        preparing: Takes a sentence that says how far it is, as often as there is something new.
        place_of: Returns where a setting, by dotted path, can be mended.

    Returns:
        What the trainer said of the first; {} if it prepares nothing.

    Raises:
        UserError: With exit code 2 for what a file can mend, 3 for what the machine lacks, 130 if it was stopped.
    """
    if trainer.preparer is None:
        return {}

    def told(line: str) -> None:
        say(line)

    # An attribute, as that of a training's `report`.
    told.preparing = preparing  # type: ignore[attr-defined]
    try:
        return dict(trainer.prepare(configs, budget_tokens, told))
    except KeyboardInterrupt:
        raise UserError("stopped while the data were made ready; nothing is lost: run again", 130) from None
    except (ValidationError, UserError):
        raise
    except OSError as error:
        raise UserError(f"the data cannot be made ready: {explain_os_error(error)}", 3) from error
    except Exception as error:
        if is_full(error) and not isinstance(error, ValueError):
            raise UserError(f"the data cannot be made ready: {full_disk()}", 3) from error
        raise _explained(error, place_of) from error


def _explained(error: Exception, place_of: Callable[[str], str]) -> UserError:
    """Return a trainer's error as one for the user; a ValueError is about what the user gave."""
    setting = getattr(error, "setting", "")
    place = f"{place_of(setting)}: " if setting else ""
    if isinstance(error, ValueError):
        return UserError(f"{place}{error}", exit_code_of(error, 2))
    return UserError(f"{place}the data cannot be made ready: {type(error).__name__}: {error}", exit_code_of(error, 1))
