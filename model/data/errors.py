"""What is raised where data cannot be used."""

import errno
from collections.abc import Iterator

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_TEXT = "os error 28"
"""What libraries in Rust (tokenizers) say of a disk that is full, in a bare Exception."""


class CorpusError(ValueError):
    """The data cannot be used as configured; the message says what is wrong and the ways out.

    Args:
        message: For a person.
        setting: Dotted path of the setting that the message is about, such as "data.path"; "" if there is none.
        exit_code: What a command ends with: 2 for what the user can mend in a file, 3 for what the machine lacks.
    """

    def __init__(self, message: str, setting: str = "", exit_code: int = 2) -> None:
        super().__init__(message)
        self.setting = setting
        self.exit_code = exit_code


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, what it was raised from, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def is_full_disk(error: BaseException) -> bool:
    """Return whether an error, or one from which it came, says that a disk or a quota is full."""
    return any((isinstance(link, OSError) and link.errno in _FULL) or _FULL_TEXT in str(link) for link in chain(error))
