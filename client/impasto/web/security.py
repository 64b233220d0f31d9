"""What browsers may do: headers of every response, and the origins whose requests are accepted.

Requests carry no cookies, so another site cannot use a token. A server without tokens would still take a form that another
site posts, and a site whose name resolves to this machine would be of the same origin. Both are rejected.
"""

from __future__ import annotations

import ipaddress
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import urlsplit

from impasto.web.limits import App, Message, Receive, Send
from impasto.web.settings import WebSettings
from impasto.web.statuses import HttpError, response_of

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Content security policy: own files only, no inline script or style, no frames, no HTML from strings."""
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)
SAME_SITE = (b"cross-origin-resource-policy", b"same-origin")
_SAFE = ("GET", "HEAD", "OPTIONS")


class Security:
    """Adds the headers, and rejects requests of other sites.

    Args:
        app: What to protect.
        settings: The accepted hosts and origins.
    """

    def __init__(self, app: App, settings: WebSettings) -> None:
        self._app, self._settings = app, settings
        self._headers = [*HEADERS, *(() if settings.origins else (SAME_SITE,))]

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", ()))
                names = {name for name, _ in given}
                message["headers"] = given + [item for item in self._headers if item[0] not in names]
            await send(message)

        error = self._problem(scope)
        if error is not None:
            await response_of(error)(scope, receive, secured)
        else:
            await self._app(scope, receive, secured)

    def _problem(self, scope: MutableMapping[str, Any]) -> HttpError | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if not self._known_host(host):
            text = f"this gateway is not called {host!r}; its operator can allow the name with --allow-host"
            return HttpError(421, "HOST_UNKNOWN", text)
        if scope["method"] in _SAFE:
            return None
        origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site", "none")
        if origin is not None:
            foreign = origin not in self._settings.origins and urlsplit(origin).netloc.lower() != host.lower()
        else:
            foreign = site not in ("none", "same-origin")
        if foreign:
            text = f"requests of other sites are not accepted, this one is of {origin or site}"
            return HttpError(403, "ORIGIN_FORBIDDEN", f"{text}; the operator can allow an origin with --allow-origin")
        return None

    def _known_host(self, host: str) -> bool:
        """Whether a Host header names this gateway. Names that anybody could let resolve to it are not accepted."""
        name = (urlsplit(f"//{host}").hostname or "") if _splits(host) else ""
        if name in self._settings.hosts:
            return True
        if self._settings.hosts or self._settings.local:
            return name == "localhost" or _is_address(name)
        return True


def _splits(host: str) -> bool:
    try:
        urlsplit(f"//{host}")
    except ValueError:  # brackets that are no IPv6 address
        return False
    return True


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
