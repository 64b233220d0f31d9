"""Forms with files, as their clients mean them: whole, and with names in any script."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator
from urllib.parse import unquote_to_bytes

from fastapi import Request
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser

from impasto.web.statuses import HttpError

MAX_FILES, MAX_FIELDS, MAX_FIELD_BYTES = 40, 200, 64 << 10
_PARAMETER = re.compile(rb';\s*([^=;\s"]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;]*)')
_EXTENDED = re.compile(rb"\s*\"?([^']*)'[^']*'(.*?)\"?\s*", re.DOTALL)


@contextlib.asynccontextmanager
async def read_form(request: Request) -> AsyncIterator[FormData]:
    """Read a form, and release its files at the end.

    Raises:
        HttpError: If it is damaged, cut off, or has too many or too large fields.
    """
    limits = {"max_files": MAX_FILES, "max_fields": MAX_FIELDS, "max_part_size": MAX_FIELD_BYTES}
    try:
        form = await _Parser(request.headers, request.stream(), **limits).parse()
    except MultiPartException as error:
        raise HttpError(400, "MESSAGE_GARBLED", error.message) from None
    try:
        yield form
    finally:
        await form.close()


class _Parser(MultiPartParser):
    """Also refuses a form without its end, and takes a file whose name is only in ``filename*``.

    RFC 7578 rules out ``filename*``, but clients of RFC 5987 send it for names that are not ASCII: urllib3 1 and requests.
    """

    _ended = False

    async def parse(self) -> FormData:
        """Return the form.

        Raises:
            MultiPartException: If it is damaged or cut off; its files are closed then.
        """
        self.stream = self._to_its_end(self.stream)
        return await super().parse()

    async def _to_its_end(self, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for piece in pieces:
            yield piece
        if not self._ended:
            raise MultiPartException("the form is cut off: its closing boundary, --BOUNDARY--, is missing")

    def on_end(self) -> None:
        """Note that the closing boundary was there."""
        self._ended = True

    def on_headers_finished(self) -> None:
        """Begin a part; a file by its extended name if it has no other."""
        disposition = self._current_part.content_disposition or b""
        found = {item[1].lower(): item for item in _PARAMETER.finditer(disposition)}
        extended = found.get(b"filename*") if b"filename" not in found else None
        if extended:
            plain = disposition[: extended.start()] + b'; filename=""' + disposition[extended.end() :]
            self._current_part.content_disposition = plain
        super().on_headers_finished()
        if extended and self._current_part.file:
            self._current_part.file.filename = _decoded(extended[2])


def _decoded(value: bytes) -> str:
    """Return the text of a parameter in the form of RFC 5987, such as ``UTF-8''caf%C3%A9.jpg``."""
    found = _EXTENDED.fullmatch(value)
    charset, text = found.groups() if found else (b"utf-8", value)
    codec = "latin-1" if charset.lower() == b"iso-8859-1" else "utf-8"
    return unquote_to_bytes(text).decode(codec, errors="replace")
