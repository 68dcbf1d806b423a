from __future__ import annotations

import pytest

from autotune.core.errors import UserError
from autotune.core.secrets import holds_password, without_passwords


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://user:pw@host/db", "postgresql://user:***@host/db"),
        ("postgresql://user:p@s:s/w?rd#@host:5432/db", "postgresql://user:***@host:5432/db"),
        ("postgresql+psycopg://:pw@/db", "postgresql+psycopg://:***@/db"),
        (
            "postgresql://host/db?user=me&password=pw&sslmode=require",
            "postgresql://host/db?user=me&password=***&sslmode=require",
        ),
        ("postgresql://host/db?sslpassword=pw", "postgresql://host/db?sslpassword=***"),
        ('bad.toml:3: storage = "postgresql://u:two words@h/d" x', 'bad.toml:3: storage = "postgresql://u:***@h/d" x'),
    ],
)
def test_passwords_are_left_out(url: str, shown: str) -> None:
    assert without_passwords(url) == shown
    assert holds_password(url)
    assert str(UserError(f"{url} no")) == f"{shown} no"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "postgresql://user@host:5432/db",
        "postgresql://user:@/db",
        "http://localhost:8642/",
        "a: b@c",
        "password authentication failed",
    ],
)
def test_what_has_none_stays(text: str) -> None:
    assert without_passwords(text) == text
    assert not holds_password(text)
