"""Sends the messages of the outbox until their receivers confirm them, over restarts of the server.

A message is signed as Standard Webhooks (https://www.standardwebhooks.com) and sent at least once, always with the same id.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import logging
import random
import ssl
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from impasto.installing import needs
from impasto_server.config import ServerConfig
from impasto_server.domain.webhooks import Webhook
from impasto_server.observability.metrics import Metrics
from impasto_server.store.base import JobStore
from impasto_server.webhooks.addresses import wrong_with

if TYPE_CHECKING:
    import httpx
    from standardwebhooks import Webhook as Signer

logger = logging.getLogger(__name__)

LOOK_S = 0.25
"""How often the outbox is read."""
AT_ONCE = 16
"""Calls at a time, so that receivers that hang hold up few others."""
ANSWER_S = 15.0
"""Longest call; Standard Webhooks recommends 15 to 30 s."""
GROWTH = 4.0
LONGEST_DELAY_S = 6 * 3600.0
GONE = 410
SECRET_PREFIX = "whsec_"  # noqa: S105 - not a secret
MIN_SECRET, MAX_SECRET = 24, 64
"""Length of a secret in bytes; Standard Webhooks asks for it."""
_LATER = (429, 502, 503, 504)


class WebhookError(Exception):
    """Webhooks cannot be sent; the message says why."""


class Sender:
    """Sends the outbox of a store.

    Args:
        config: The settings.
        store: Holds the outbox.
        metrics: Counts the calls.

    Raises:
        WebhookError: If a library is missing or the secret cannot be used.
    """

    def __init__(self, config: ServerConfig, store: JobStore, metrics: Metrics) -> None:
        self._config, self._store, self._metrics = config, store, metrics
        self._signers = _signers(config.webhook_secret)
        self._context = _context(config.webhook_ca)
        self._httpx = _library("httpx")
        self._sending: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Send what is due until the task is cancelled; messages that are not confirmed stay in the outbox."""
        client: httpx.AsyncClient
        async with self._httpx.AsyncClient(verify=self._context, follow_redirects=False, timeout=ANSWER_S) as client:
            try:
                while True:
                    self._look(client)
                    await asyncio.sleep(LOOK_S)
            finally:
                for task in self._sending.values():
                    task.cancel()

    def _look(self, client: httpx.AsyncClient) -> None:
        """Start the calls that are due, oldest first."""
        now = time.time()
        pending = self._store.webhooks()
        self._metrics.webhooks_pending.set(len(pending))
        self._metrics.webhook_age.set(max((now - hook.created for hook in pending), default=0.0))
        for hook in sorted(pending, key=lambda hook: hook.due):
            if hook.due > now or len(self._sending) >= AT_ONCE:
                return
            if hook.message_id not in self._sending:
                task = asyncio.create_task(self._send(client, hook))
                self._sending[hook.message_id] = task
                task.add_done_callback(lambda _, key=hook.message_id: self._sending.pop(key, None))  # type: ignore[misc]

    async def _send(self, client: httpx.AsyncClient, hook: Webhook) -> None:
        why, retry_s = await self._call(client, hook)
        if not why:
            self._metrics.webhooks.labels("delivered").inc()
            self._store.drop_webhook(hook.message_id)
            return
        self._metrics.webhooks.labels("failed").inc()
        delay_s = min(self._config.webhook_retry_s * GROWTH**hook.attempts, LONGEST_DELAY_S) * random.uniform(0.8, 1.2)  # noqa: S311
        due = time.time() + max(delay_s, retry_s)
        attempts, host = hook.attempts + 1, urlsplit(hook.url).hostname
        if why == str(GONE) or due - hook.created > self._config.webhook_give_up_s:
            self._metrics.webhooks.labels("given_up").inc()
            self._store.drop_webhook(hook.message_id)
            logger.warning("webhook %s to %s is given up after %d attempts: %s", hook.message_id, host, attempts, why)
            return
        self._store.put_off_webhook(hook.message_id, attempts, due)
        logger.info("webhook %s to %s failed, attempt %d: %s", hook.message_id, host, attempts, why)

    async def _call(self, client: httpx.AsyncClient, hook: Webhook) -> tuple[str, float]:
        """Call a receiver once; return why it did not confirm, empty if it did, and its Retry-After in seconds."""
        errors = (self._httpx.HTTPError, self._httpx.InvalidURL, TimeoutError, OSError, ValueError)
        if wrong := wrong_with(hook.url, self._config.webhook_hosts):  # the operator has changed the list since
            return wrong, 0.0
        try:
            async with (
                asyncio.timeout(ANSWER_S),
                client.stream("POST", hook.url, content=hook.body, headers=self._headers(hook)) as response,
            ):
                confirmed = 200 <= response.status_code < 300  # redirects are not followed
                wait_s = _retry_after(response.headers.get("retry-after", "")) if response.status_code in _LATER else 0.0
                return "" if confirmed else str(response.status_code), wait_s
        except errors as error:
            return type(error).__name__, 0.0

    def _headers(self, hook: Webhook) -> dict[str, str]:
        now = datetime.now(UTC)
        signatures = (signer.sign(hook.message_id, now, hook.body) for signer in self._signers)
        return {
            "content-type": "application/json",
            "user-agent": "impasto",
            "webhook-id": hook.message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(signatures),
        }


def _retry_after(text: str) -> float:
    """Return the seconds of a Retry-After header, at most six hours; 0 if there is none that makes sense."""
    try:
        seconds = float(text) if text.isdigit() else (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return 0.0
    return min(max(0.0, seconds), LONGEST_DELAY_S)


def _signers(path: str) -> list[Signer]:
    """Return a signer for each line of the file of secrets: two while one replaces the other."""
    library = _library("standardwebhooks")
    try:
        lines = [line.strip() for line in Path(path).read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise WebhookError(f"webhook_secret: {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        keys = [base64.b64decode(_padded(line.removeprefix(SECRET_PREFIX)), validate=True) for line in lines]
    except ValueError:
        raise WebhookError(f"webhook_secret: {path} must have secrets such as whsec_ and base64, one on a line") from None
    if not keys:
        raise WebhookError(f"webhook_secret: {path} is empty")
    for index, key in enumerate(keys):
        if not MIN_SECRET <= len(key) <= MAX_SECRET:
            text = f"secret {index + 1} in {path} has {len(key)} bytes; Standard Webhooks asks for {MIN_SECRET} to {MAX_SECRET}"
            raise WebhookError(f'webhook_secret: {text}; for a new one: echo "whsec_$(openssl rand -base64 32)"')
    return [library.Webhook(key) for key in keys]


def _padded(text: str) -> str:
    """Return base64 with the padding that some tools leave out."""
    bare = text.rstrip("=")
    return bare + "=" * (-len(bare) % 4)


def _context(authority: str) -> ssl.SSLContext:
    """Return how receivers are verified."""
    try:
        return ssl.create_default_context(cafile=authority or None)
    except (OSError, ssl.SSLError) as error:
        raise WebhookError(f"webhook_ca: {authority} cannot be used: {error}") from None


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise WebhookError(needs("webhook_hosts", name, "webhooks")) from None
