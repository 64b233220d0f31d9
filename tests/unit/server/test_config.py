from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from click.testing import CliRunner

from impasto.cli.main import cli
from impasto_server.config import ConfigError, ServerConfig, read_file, strange_variables, to_toml
from impasto_server.observability import logs


def test_a_file_holds_what_options_and_variables_leave_open(tmp_path: Path) -> None:
    """The option goes before the variable, that before the file, that before the default."""
    path = tmp_path / "impasto.toml"
    path.write_text('max_styles = 3\nretention_s = 60\nlisten = "127.0.0.1:1"\ncuda_graphs = true\n')
    arguments = ["--config", str(path), "--print-config", "--listen", "127.0.0.1:2"]
    done = CliRunner().invoke(cli, ["serve", *arguments], env={"IMPASTO_MAX_STYLES": "4"})
    assert done.exit_code == 0, done.output
    (tmp_path / "printed.toml").write_text(done.output)
    found = ServerConfig(**read_file(tmp_path / "printed.toml"))
    assert found == ServerConfig(listen="127.0.0.1:2", max_styles=4, retention_s=60.0, cuda_graphs=True)


def test_what_is_printed_is_what_is_read(tmp_path: Path) -> None:
    """Every setting there and back."""
    config = ServerConfig(tokens='a "b" \\ c', metrics="127.0.0.1:0", max_client_jobs=3, cuda_graphs=True, grace_s=0.5)
    (tmp_path / "a.toml").write_text(to_toml(config))
    assert ServerConfig(**read_file(tmp_path / "a.toml")) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_style = 3", "unknown setting 'max_style'; did you mean max_styles?"),
        ("qqq = 3", "unknown setting 'qqq'; the settings are listen"),
        ('max_styles = "3"', "max_styles must be a whole number"),
        ("max_styles = true", "max_styles must be a whole number"),
        ("max_styles = 1.5", "max_styles must be a whole number"),
        ("cuda_graphs = 1", "cuda_graphs must be true or false"),
        ("listen = 1", "listen must be a string"),
        ("listen", "Expected"),
    ],
)
def test_a_wrong_file_is_an_error_that_says_what(tmp_path: Path, text: str, message: str) -> None:
    """Unknown keys, values of another kind, no TOML."""
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        read_file(path)
    done = CliRunner().invoke(cli, ["serve", "--config", str(path), "--print-config"])
    assert done.exit_code == 1
    assert "Traceback" not in done.output


def test_variables_that_are_no_settings_are_told() -> None:
    """Those of the client, of the filters' cache and of Kubernetes are none of ours."""
    known = (
        "LISTEN",
        "LOG_LEVEL",
        "TOKEN",
        "CACHE",
        "SERVER",
        "SERVICE_HOST",
        "PORT",
        "PORT_50051_TCP_ADDR",
        "SERVICE_PORT_GRPC",
    )
    assert strange_variables({f"IMPASTO_{name}": "" for name in known} | {"OTHER": ""}) == []
    assert strange_variables({"IMPASTO_LISTNE": "", "IMPASTO_QQQ": ""}) == [
        "IMPASTO_LISTNE is not a setting; did you mean IMPASTO_LISTEN?",
        "IMPASTO_QQQ is not a setting",
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": "nonsense"}, "metrics must be HOST:PORT"),
        ({"tls_cert": "a"}, "tls_cert and tls_key must be set together"),
        ({"tls_client_ca": "a"}, "tls_client_ca needs"),
        ({"log_format": "xml"}, "log_format must be"),
        ({"max_client_jobs": -1}, "max_client_jobs must be at least 0"),
        (
            {"webhook_hosts": "https://a.example/hook"},
            r"webhook_hosts must be HOST, .* got 'https://a.example/hook'; did you mean a.example\?",
        ),
        ({"webhook_hosts": "a.example,b.example:8443/hook"}, r"got 'b.example:8443/hook'; did you mean b.example:8443\?"),
        ({"webhook_hosts": "a.example;b.example"}, "got 'a.example;b.example'$"),
        ({"webhook_hosts": " , "}, "webhook_hosts must be HOST"),
        ({"webhook_hosts": "*"}, "webhook_hosts must be HOST"),
        ({"webhook_hosts": "a.*.example"}, "webhook_hosts must be HOST"),
        ({"webhook_hosts": "a.example:"}, "webhook_hosts must be HOST"),
        ({"webhook_hosts": "a.example:65536"}, "webhook_hosts must be HOST"),
        ({"webhook_hosts": "2001:db8::1"}, "webhook_hosts must be HOST"),
        ({"webhook_hosts": "m\u00fcnchen.example"}, "webhook_hosts must be HOST"),
    ],
)
def test_settings_that_cannot_be_are_named(settings: dict[str, object], message: str) -> None:
    """At start, not later."""
    with pytest.raises(ConfigError, match=message):
        ServerConfig(**settings)  # type: ignore[arg-type]


def test_a_token_is_made_from_the_command_line(tmp_path: Path) -> None:
    """Appended, readable by its owner only, printed once; a file that is something else is left alone."""
    path = tmp_path / "tokens"
    first = CliRunner().invoke(cli, ["token", "ann", "--file", str(path)])
    second = CliRunner().invoke(cli, ["token", "bob", "--file", str(path), "--admin"])
    assert first.exit_code == second.exit_code == 0
    lines = path.read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["ann", "bob"]
    assert lines[1].endswith(" admin")
    assert first.output.strip() not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    path.write_text("something else\n")
    assert CliRunner().invoke(cli, ["token", "eve", "--file", str(path)]).exit_code == 1
    assert path.read_text() == "something else\n"


def test_json_logs_are_one_object_a_line() -> None:
    """With what the caller added, and with exceptions; any value can be said."""
    record = logging.makeLogRecord({"name": "impasto", "levelname": "INFO", "msg": "job %s\nstarts", "args": ("a1",)})
    record.job_id, record.odd = "a1", Path("x")
    try:
        raise ValueError("no")
    except ValueError as error:
        record.exc_info = (ValueError, error, error.__traceback__)
    line = logs.JsonFormatter().format(record)
    assert "\n" not in line
    values = json.loads(line)
    assert (values["message"], values["job_id"], values["odd"]) == ("job a1\nstarts", "a1", "x")
    assert "ValueError: no" in values["exception"]
