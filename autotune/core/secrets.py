"""Passwords in database URLs: found, and left out of whatever may be read by others."""

from __future__ import annotations

import re

_IN_URL = re.compile(r"([a-z][a-z0-9+.-]*://[^\s:/@?#]*):[^\n\"]+@", re.IGNORECASE)
"""The last "@" of a line ends the password: one that is not written as %40 is a part of it."""
_AS_KEY = re.compile(r"(password\s*=\s*)[^\s&\"']+", re.IGNORECASE)


def without_passwords(text: str) -> str:
    """Return a text with *** in place of each password of a URL, "scheme://user:password@host" or "?password="."""
    return _AS_KEY.sub(r"\1***", _IN_URL.sub(r"\1:***@", text))


def holds_password(text: str) -> bool:
    """Return whether a text has a URL with a password in it."""
    return without_passwords(text) != text
