"""Passwords in database URLs: found, and left out of whatever may be read by others."""

from __future__ import annotations

import re

_VARIABLE = r"(?!\$\{\w+\}@)"
"""A variable of the environment that stands for a password is none."""
_IN_URL = re.compile(rf"([a-z][a-z0-9+.-]*://[^\s:/@?#]*):{_VARIABLE}[^\n\"]+@", re.IGNORECASE)
"""The last "@" of a line ends the password: one that is not written as %40 is a part of it."""
_AS_KEY = re.compile(r"(password\s*=\s*)(?!\$\{)[^\s&\"']+", re.IGNORECASE)
_OF_POSTGRESQL = re.compile(rf"(postgres(?:ql)?(?:\+psycopg)?://[^\s:/@?#]*):{_VARIABLE}[^\n\"']+@", re.IGNORECASE)
_AS_OPTION = re.compile(r"([?&])((?:ssl)?password=(?!\$\{)[^\s&\"']*)(&?)", re.IGNORECASE)


def without_passwords(text: str) -> str:
    """Return a text with *** in place of each password of a URL, "scheme://user:password@host" or "?password="."""
    return _AS_KEY.sub(r"\1***", _IN_URL.sub(r"\1:***@", text))


def to_be_stored(text: str, url: str) -> str:
    """Return a text, or the URL itself, as it may be stored: without the passwords of databases.

    Args:
        text: A study file, or another text with the URL in it.
        url: The URL of a shared database; "" for none.
    """
    # By itself it is read rightly whatever follows on its line.
    text = text.replace(url, _less_password(url)) if url else text
    return _less_password(text)


def _less_password(text: str) -> str:
    return _AS_OPTION.sub(_less_option, _OF_POSTGRESQL.sub(r"\1@", text))


def _less_option(found: re.Match[str]) -> str:
    before, _, after = found.groups()
    return before if after else ""
