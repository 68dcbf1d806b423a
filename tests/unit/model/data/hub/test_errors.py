"""What went wrong with the hub, in a sentence."""

import errno

import pytest

from model.data.hub.errors import explain, passes_by_itself


class ProxyError(Exception):
    """Named as the HTTP client names it."""


class ReadTimeoutError(TimeoutError):
    """A passing fault of the network."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full while"),
        (Exception("No space left on device (os error 28)"), "the disk is full while"),
        (PermissionError(errno.EACCES, "Permission denied", "/cache/x"), "/cache/x may not be written while"),
        (ProxyError("407 Proxy Authentication Required"), "set HTTPS_PROXY=http://NAME:PASSWORD@HOST:PORT"),
        (ReadTimeoutError("no answer"), "cannot be reached for"),
        (RuntimeError("something\nelse"), 'cannot read dataset "org/name" from the hub: RuntimeError: something;'),
    ],
)
def test_the_cause_is_found_wherever_it_lies_in_the_chain(error, words):
    outer = RuntimeError("outer")
    outer.__cause__ = error
    for raised in [error] if type(error) is RuntimeError else [error, outer]:
        told = explain(raised, "org/name")
        assert words in str(told)
        assert told.exit_code == 3


def test_what_passes_by_itself_is_tried_again_and_a_proxy_that_refuses_is_not():
    assert passes_by_itself(ReadTimeoutError())
    assert not passes_by_itself(ProxyError())
    assert not passes_by_itself(FileNotFoundError())
