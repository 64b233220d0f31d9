from __future__ import annotations

import os
from pathlib import Path

import pytest

from impasto_server.auth.tokens import Principal, TokenFileError, Tokens, new_token, parse
from impasto_server.domain.errors import ServiceError


def test_a_token_is_known_by_its_hash_only(tmp_path: Path) -> None:
    """The file holds no token; the right one says who calls, another one and none are told apart."""
    token, line = new_token("ann", admin=True)
    path = tmp_path / "tokens"
    path.write_text(f"# people\n\n{line}\n")
    assert token not in path.read_text()
    tokens = Tokens(path)
    assert tokens.principal(f"Bearer {token}") == Principal("ann", admin=True)
    assert tokens.principal(f"bearer {token}").name == "ann"
    for header, reason in ((None, "TOKEN_MISSING"), ("Basic abc", "TOKEN_MISSING"), ("Bearer x", "TOKEN_UNKNOWN")):
        with pytest.raises(ServiceError) as caught:
            tokens.principal(header)
        assert (caught.value.code, caught.value.reason) == ("UNAUTHENTICATED", reason)


def test_a_file_of_a_windows_editor_is_read(tmp_path: Path) -> None:
    """It begins with a byte order mark."""
    token, line = new_token("ann")
    path = tmp_path / "tokens"
    path.write_text(line + "\n", "utf-8-sig")
    assert Tokens(path).principal(f"Bearer {token}").name == "ann"


def test_tokens_are_given_and_taken_without_a_restart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A changed file counts within a second; one that cannot be read leaves those of before, and says so."""
    now = 0.0
    first, line = new_token("ann")
    path = tmp_path / "tokens"
    path.write_text(line)
    tokens = Tokens(path, lambda: now)
    second, other = new_token("bob")
    path.write_text(other)
    os.utime(path, ns=(1, 1))
    assert tokens.principal(f"Bearer {first}").name == "ann"
    now = 2.0
    assert tokens.principal(f"Bearer {second}") == Principal("bob", admin=False)
    with pytest.raises(ServiceError):
        tokens.principal(f"Bearer {first}")
    path.write_text(f"secret {second}")
    now = 4.0
    assert tokens.principal(f"Bearer {second}").name == "bob"
    assert "line 1" in caplog.text
    assert second not in caplog.text


@pytest.mark.parametrize("text", ["ann", "ann sha256:12", f"ann md5:{'0' * 64}", f"a b sha256:{'0' * 64}"])
def test_a_wrong_line_is_named_by_its_number(text: str, tmp_path: Path) -> None:
    """Never by what is in it, which may be a token."""
    with pytest.raises(TokenFileError, match="line 2 is not"):
        parse(f"# comment\n{text}")
    path = tmp_path / "tokens"
    path.write_text(text)
    with pytest.raises(TokenFileError, match="line 1"):
        Tokens(path)
    with pytest.raises(TokenFileError, match="No such file"):
        Tokens(tmp_path / "nowhere")


def test_a_file_that_is_no_text_is_a_bad_file_like_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At start, and in a running server, which goes on with the tokens of before and says so once."""
    now = 0.0
    path = tmp_path / "tokens"
    token, line = new_token("ann")
    path.write_text(line)
    tokens = Tokens(path, lambda: now)
    path.write_bytes(b"\x89PNG\xff")
    for now in (2.0, 4.0):
        assert not tokens.look()
        assert tokens.principal(f"Bearer {token}").name == "ann"
    assert caplog.text.count("cannot be used") == 1
    with pytest.raises(TokenFileError):
        Tokens(path)
    path.write_text(line)
    now = 6.0
    assert tokens.look()


def test_names_that_cannot_stand_in_a_line_are_refused() -> None:
    """Spaces and nothing at all."""
    for name in ("", "a b", "a\nb sha256:"):
        with pytest.raises(TokenFileError):
            new_token(name)


def test_owners_see_their_own_and_admins_all() -> None:
    """And everybody everything where nobody is told apart."""
    assert Principal("ann", admin=False).may_see("ann")
    assert not Principal("ann", admin=False).may_see("bob")
    assert Principal("root", admin=True).may_see("bob")
    assert Principal().may_see("")
