"""Stubs for other languages, as buf.gen.yaml makes them, compile and work; the Go example does what it says.

Needs Debian's packages (tests/languages.txt). Run by `make test-languages`; what is not installed is skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives import serialization

from tests.conftest import ROOT, ServerProcess
from tests.integration.contract.test_tls import certificate
from tests.paints import check_example

pytestmark = [pytest.mark.languages, pytest.mark.timeout(300)]  # the first build compiles the libraries of Go
NODE = ROOT / "tests/integration/contract/node/node_modules"
TYPESCRIPT = ROOT / "examples/typescript/node_modules"
GOPATH = Path("/usr/share/gocode")
"""Where Debian's packages have Go's libraries."""
JARS = Path("/usr/share/java")
JAVA = (
    *("protobuf", "guava", "gson", "jsr305", "geronimo-annotation-1.3-spec", "perfmark-api"),
    *(f"grpc-{part}" for part in ("api", "context", "core", "netty", "protobuf", "protobuf-lite", "stub")),
    *(f"netty-{part}" for part in ("all", "buffer", "codec", "codec-http", "codec-http2", "codec-socks", "common", "handler")),
    *(f"netty-{part}" for part in ("handler-proxy", "resolver", "transport", "transport-native-unix-common")),
)


def need(*programs: str) -> None:
    """Skip the test if a program is missing."""
    missing = [program for program in programs if not shutil.which(program)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command that must succeed; return its standard output."""
    given = {**os.environ, **environment}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def stubs(language: str, folder: Path) -> Path:
    """Return the stubs of a language, made by buf with those plugins of buf.gen.yaml that write them."""
    if not (NODE / ".bin/buf").exists():
        pytest.skip("buf is not here: run make test-languages")
    config = yaml.safe_load((ROOT / "buf.gen.yaml").read_text())
    config["plugins"] = [plugin for plugin in config["plugins"] if plugin["out"] == f"gen/{language}"]
    assert config["plugins"]
    tools = folder / "tools"
    tools.mkdir()
    if debian := shutil.which("grpc_java_plugin"):  # Debian's name of protoc-gen-grpc-java
        (tools / "protoc-gen-grpc-java").symlink_to(debian)
    path = f"{tools}:{NODE / '.bin'}:{os.environ['PATH']}"
    run(NODE / ".bin/buf", "generate", "--template", json.dumps(config), "-o", folder, cwd=ROOT, PATH=path)
    return folder / "gen" / language


def go_environment(folder: Path) -> dict[str, str]:
    """Return what Go needs to find Debian's libraries, and the module `paint` in a folder."""
    cache = os.environ.get("GOCACHE") or str(Path.home() / ".cache/go-build")
    return {"GO111MODULE": "off", "GOPATH": f"{folder}:{GOPATH}", "GOFLAGS": "", "GOCACHE": cache}


@pytest.fixture(scope="module")
def go_example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the Go example as the docs say; return the program."""
    need("go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc")
    folder = tmp_path_factory.mktemp("go")
    source = folder / "src/paint"
    shutil.copytree(ROOT / "examples/go", source, ignore=shutil.ignore_patterns("gen", "protos"))
    run(sys.executable, "-m", "impasto", "proto", "-o", source / "protos", cwd=source)
    run("go", "generate", cwd=source, **go_environment(folder))
    run("go", "vet", ".", cwd=source, **go_environment(folder))
    run("go", "build", "-o", folder / "paint", ".", cwd=source, **go_environment(folder))
    assert run("gofmt", "-l", ".", cwd=source).split() == []
    return folder / "paint"


def test_the_go_example_paints_over_a_bad_link(go_example: Path, tmp_path: Path, png: Callable[..., bytes]) -> None:
    """With a token and TLS: it submits, watches every step once, resumes where the connection was lost, and decodes errors."""
    key, own = certificate("server")
    (tmp_path / "server.pem").write_bytes(own.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    secret = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    (tmp_path / "server.key").write_bytes(secret)
    serve = ("--tls-cert", str(tmp_path / "server.pem"), "--tls-key", str(tmp_path / "server.key"))
    trusted = {"IMPASTO_TLS_CA": str(tmp_path / "server.pem")}
    check_example([go_example], tmp_path, png, *serve, cut_within=(9_000, 14_000), **trusted)


def test_buf_makes_go_stubs_that_the_example_takes(tmp_path: Path) -> None:
    """The import path that managed mode sets is the one that the example imports."""
    need("go", "protoc-gen-go", "protoc-gen-go-grpc")
    source = tmp_path / "src/paint"
    source.mkdir(parents=True)
    shutil.copy(ROOT / "examples/go/paint.go", source)
    shutil.move(stubs("go", tmp_path), source / "gen")
    run("go", "vet", ".", cwd=source, **go_environment(tmp_path))


def test_buf_makes_typescript_that_compiles_strictly_and_works(tmp_path: Path) -> None:
    """A request that is made with it reads back from its bytes."""
    need("node")
    if not (TYPESCRIPT / ".bin/tsc").exists() or not (NODE / ".bin/protoc-gen-es").exists():
        pytest.skip("the compiler or the generator of TypeScript is not here: run make test-languages")
    made = stubs("typescript", tmp_path)
    shutil.copy(ROOT / "tests/integration/contract/typescript/message.ts", made)
    (made / "node_modules").symlink_to(NODE)
    options = ["--strict", "--noUncheckedIndexedAccess", "--skipLibCheck", "--target", "es2022", "--outDir", "out"]
    modules = ["--module", "commonjs", "--moduleResolution", "node10"]
    run("node", TYPESCRIPT / "typescript/bin/tsc", *options, *modules, "message.ts", cwd=made)
    assert run("node", "out/message.js", cwd=made).split() == ["r", "64", "2", "1"]


def test_buf_makes_java_that_compiles_and_calls_a_server(tmp_path: Path, real_server: ServerProcess) -> None:
    """A blocking stub gets the version of a server."""
    need("javac", "java", "protoc", "grpc_java_plugin")
    jars = [JARS / f"{name}.jar" for name in JAVA]
    missing = [jar.name for jar in jars if not jar.exists()]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    path = ":".join(map(str, jars))
    sources = sorted(stubs("java", tmp_path).rglob("*.java"))
    assert len(sources) > 100
    peer = ROOT / "tests/integration/contract/java/Info.java"
    run("javac", "-d", tmp_path / "classes", "-cp", path, peer, *sources, cwd=tmp_path)
    printed = run("java", "-cp", f"{tmp_path / 'classes'}:{path}", "Info", real_server.address, cwd=tmp_path)
    assert printed.strip() == "0.1.0"
