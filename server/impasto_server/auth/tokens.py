"""Identifies callers by bearer tokens from a file, or by the name in a client's certificate.

All callers are anonymous unless tokens or client certificates are set up.

A token file has a line for each token: a name, the SHA-256 of the token as ``sha256:HEX``, and ``admin`` for a caller who may
see all jobs. The file holds only hashes; ``impasto token NAME --file FILE`` adds a line and shows the token once. The file is
reloaded when it changes, so tokens are added and revoked without a restart.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from impasto_server.domain.errors import ServiceError
from impasto_server.files import FileWatch

logger = logging.getLogger(__name__)

_LINE = re.compile(r"(?P<name>[\w.@-]{1,64})\s+sha256:(?P<hash>[0-9a-f]{64})(?P<admin>\s+admin)?")


@dataclass(frozen=True)
class Principal:
    """The caller.

    Attributes:
        name: Owns the jobs and files that the call creates; empty for anonymous callers.
        admin: Whether all jobs are visible.
    """

    name: str = ""
    admin: bool = True

    def may_see(self, owner: str) -> bool:
        """Whether an owner's jobs and files are visible."""
        return self.admin or self.name == owner


ANYBODY = Principal()
"""The anonymous caller: all jobs and files are shared."""
PRINCIPAL: ContextVar[Principal] = ContextVar("principal", default=ANYBODY)
"""The caller of the call that is being served."""


class TokenFileError(ValueError):
    """A token file that cannot be used; the message names the line."""


def new_token(name: str, *, admin: bool = False) -> tuple[str, str]:
    """Return a new token and its line for the token file.

    Raises:
        TokenFileError: If the name is not valid.
    """
    token = secrets.token_urlsafe(32)
    line = f"{name} sha256:{_hashed(token)}{' admin' if admin else ''}"
    if not _LINE.fullmatch(line):
        raise TokenFileError(f"{name!r}: a name has 1 to 64 letters, digits, and . _ @ -")
    return token, line


def parse(text: str) -> dict[str, Principal]:
    """Return the accepted callers, by the hash of the token.

    Raises:
        TokenFileError: If a line is invalid; the message gives its number, never its contents.
    """
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.split("#", 1)[0].strip()
        if not stripped:
            continue
        match = _LINE.fullmatch(stripped)
        if match is None:
            raise TokenFileError(f"line {number} is not 'NAME sha256:HEX [admin]'")
        found[match["hash"]] = Principal(match["name"], bool(match["admin"]))
    return found


class Tokens:
    """The tokens in a file, which may change while the server runs.

    Raises:
        TokenFileError: If it cannot be read or parsed at the start.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._watch = FileWatch([path], clock)
        self._good = True
        try:
            self._known = parse(path.read_text("utf-8-sig"))
        except OSError as error:
            raise TokenFileError(f"{path}: {error.strerror}") from None
        except ValueError as error:  # also if it is not text
            raise TokenFileError(f"{path}: {error}") from None

    def principal(self, authorization: str | None) -> Principal:
        """Return the caller of an ``authorization`` header.

        Raises:
            ServiceError: UNAUTHENTICATED if there is no token, or an unknown one.
        """
        self.look()
        kind, _, token = (authorization or "").partition(" ")
        if kind.lower() != "bearer" or not token:
            text = "this server requires a token: send 'authorization: Bearer TOKEN'"
            raise ServiceError("TOKEN_MISSING", text)
        found = self._known.get(_hashed(token.strip()))
        if found is None:
            raise ServiceError("TOKEN_UNKNOWN", "the token is unknown or was revoked")
        return found

    def look(self) -> bool:
        """Reload the file if it changed; keep the tokens if it cannot be used. Return whether it is usable."""
        if not self._watch.changed():
            return self._good
        try:
            self._known = parse(self._path.read_text("utf-8-sig"))
        except (OSError, ValueError) as error:
            logger.warning("the token file cannot be used; the current tokens are kept: %s", error)
            self._good = False
        else:
            logger.info("the token file was reloaded: %d tokens", len(self._known))
            self._good = True
        return self._good


def _hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
