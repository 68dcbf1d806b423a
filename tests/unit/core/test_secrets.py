from __future__ import annotations

import pytest

from autotune.core.errors import UserError
from autotune.core.secrets import to_be_stored, without_passwords


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
        "postgresql://user:${PGPASS}@host/db?password=${PGPASS}",
    ],
)
def test_what_has_none_stays(text: str) -> None:
    assert without_passwords(text) == text
    assert to_be_stored(text, "") == text


@pytest.mark.parametrize(
    ("url", "stored"),
    [
        ("postgresql://user:pw@host/db", "postgresql://user@host/db"),
        ("postgres://user:p@s:s/w?rd#@host:5432/db", "postgres://user@host:5432/db"),
        ("postgresql+psycopg://:pw@/db", "postgresql+psycopg://@/db"),
        ("postgresql://host/db?user=me&password=pw&sslmode=require", "postgresql://host/db?user=me&sslmode=require"),
        ("postgresql://host/db?password=pw&user=me", "postgresql://host/db?user=me"),
        ("postgresql://host/db?sslpassword=pw", "postgresql://host/db"),
        ("postgresql://user:${PGPASS}@host/db", "postgresql://user:${PGPASS}@host/db"),
        ("", ""),
    ],
)
def test_a_study_file_is_stored_without_its_password(url: str, stored: str) -> None:
    def file(url: str, old: str) -> str:
        return f'# --set storage="{url}"\n# storage = "{old}"\nstorage = "{url}"  # ask me@work\n'

    assert to_be_stored(url, url) == stored
    text = file(url, "postgresql://me:old@host/db")
    assert to_be_stored(text, url) == file(stored, "postgresql://me@host/db")
    other = 'proxy = "http://user:pw@proxy:80"\n'
    assert to_be_stored(other, url) == other
