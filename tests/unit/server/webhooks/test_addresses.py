"""Which URLs a job may name: what leads elsewhere than the operator allows is refused."""

from __future__ import annotations

import pytest

from impasto_server.config import ServerConfig
from impasto_server.webhooks.addresses import wrong_with

ALLOWED = "hooks.example.com, *.studio.example, other.example:8443, [2001:db8::1]"


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com/impasto?token=x",
        "https://HOOKS.example.com",
        "https://hooks.example.com:443/",
        "https://a.studio.example/",
        "https://a.b.studio.example/",
        "https://other.example:8443/x",
        "https://[2001:db8::1]/x",
    ],
)
def test_what_the_operator_allows_is_taken(url: str) -> None:
    assert wrong_with(url, ALLOWED) == ""


def test_a_server_starts_with_every_form_that_can_match() -> None:
    """The check at its start and the comparison know the same forms."""
    forms = f"{ALLOWED},127.0.0.1:8443,[::1]:8443,*.studio.example:8443,my_host,HOOKS.example.com,"
    assert ServerConfig(webhook_hosts=forms, webhook_secret="x").webhook_hosts == forms


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://hooks.example.com/", "must begin with https://"),
        ("ftp://hooks.example.com/", "must begin with https://"),
        ("hooks.example.com", "must begin with https://"),
        ("https:///x", "must begin with https://"),
        ("https://user:pass@hooks.example.com/", "without a user"),
        ("https://hooks.example.com@evil.example/", "without a user"),
        ("https://hooks.example.com/#x", "without a user"),
        ("https://hooks.example.com:8443/", "hooks.example.com:8443, which the server's operator has not allowed"),
        ("https://other.example/", "other.example:443"),
        ("https://hooks.example.com.evil.example/", "has not allowed"),
        ("https://evilhooks.example.com/", "has not allowed"),
        ("https://studio.example/", "has not allowed"),
        ("https://evilstudio.example/", "has not allowed"),
        ("https://.studio.example/", "has not allowed"),
        ("https://127.0.0.1/", "has not allowed"),
        ("https://169.254.169.254/latest/meta-data", "has not allowed"),
        ("https://[::1]/", "has not allowed"),
        ("https://2130706433/", "has not allowed"),
        ("https://hooks.example.com\\@evil.example/", "ASCII characters"),
        ("https://hooks.example.com/\n", "ASCII characters"),
        ("https://hooks.example.com/\u0430", "ASCII characters"),
        ("https://hooks.example.com/" + "x" * 1000, "at most 1000"),
        ("https://hooks.example.com:99999/", "is not a URL"),
        ("https://[::1/", "is not a URL"),
    ],
)
def test_what_leads_elsewhere_is_refused(url: str, text: str) -> None:
    """Other schemes, ports and hosts; names that only look alike; addresses of the machine itself and of clouds."""
    assert text in wrong_with(url, ALLOWED)


def test_without_a_list_there_are_no_webhooks() -> None:
    assert "has allowed no hosts" in wrong_with("https://hooks.example.com/", "")
