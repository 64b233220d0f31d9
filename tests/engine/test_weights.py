from __future__ import annotations

import dataclasses
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from impasto_engine import weights
from impasto_engine.networks import random_trunk
from impasto_engine.weights import IMAGENET, WeightsError, load_network

CPU = torch.device("cpu")
BUILTIN = Path(weights.__file__).parent / "builtin"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test a cache of its own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("IMPASTO_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """Return a whole random VGG16 in torchvision's naming, with a classifier that nobody needs."""
    torch.manual_seed(1)
    features = {f"features.{key}": value for key, value in random_trunk("vgg16", 0).state_dict().items()}
    return {**features, "classifier.0.weight": torch.full((4, 4), torch.nan)}


@pytest.fixture
def mirror(tmp_path: Path, state: dict[str, torch.Tensor]) -> Iterator[weights.ImageNetWeights]:
    """Serve the random network as a published file on a free port."""
    folder = tmp_path / "published"
    folder.mkdir()
    torch.save(state, folder / "vgg.pth")
    handler = lambda *args: http.server.SimpleHTTPRequestHandler(*args, directory=str(folder))  # noqa: E731
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    digest = hashlib.sha256((folder / "vgg.pth").read_bytes()).hexdigest()
    real = IMAGENET["imagenet"]

    @dataclasses.dataclass(frozen=True)
    class Local(weights.ImageNetWeights):
        @property
        def url(self) -> str:
            return f"http://127.0.0.1:{server.server_address[1]}/vgg.pth"

    yield Local(real.name, real.entry, digest[:8], real.unit)
    server.shutdown()
    server.server_close()


def test_the_built_in_filters_are_the_recorded_ones_and_small() -> None:
    """The shipped file has the hash beside it, and at most 16 MB."""
    file = BUILTIN / weights.BUILTIN_FILE
    recorded, name = (BUILTIN / "SHA256SUMS").read_text().split()
    assert name == file.name
    assert hashlib.sha256(file.read_bytes()).hexdigest() == recorded
    assert file.stat().st_size <= 16_000_000
    network = load_network("builtin", CPU)
    assert (network.weights.name, network.weights.sha256) == ("builtin", recorded)


def test_auto_prefers_the_papers_filters_and_never_hides_its_choice(mirror: weights.ImageNetWeights, cache: Path) -> None:
    """Built-in with an empty cache; imagenet as soon as it is there; the network says which."""
    assert weights.resolve("auto") == "builtin"
    seen: list[tuple[int, int]] = []
    path = weights.download("imagenet", lambda done, total: seen.append((done, total)), mirror)
    assert path.parent == cache
    assert seen[-1][0] == seen[-1][1] > 50_000_000
    assert weights.resolve("auto") == "imagenet"
    network = load_network("auto", CPU)
    assert network.weights.name == "imagenet"
    assert network.weights.unit == 57.6
    assert network.weights.sha256 == weights.verify("imagenet")


def test_a_download_with_the_wrong_hash_leaves_nothing(mirror: weights.ImageNetWeights, cache: Path) -> None:
    """The error names both hashes; the cache stays empty."""
    with pytest.raises(WeightsError, match="SHA-256 is .*, expected 0000"):
        weights.download("imagenet", source=dataclasses.replace(mirror, sha256="0000"))
    assert list(cache.iterdir()) == []


def test_a_download_that_fails_keeps_what_was_there(mirror: weights.ImageNetWeights) -> None:
    """An address that does not answer is a clear error, and the old file still verifies."""
    weights.download("imagenet", source=mirror)
    before = weights.verify("imagenet")

    @dataclasses.dataclass(frozen=True)
    class Gone(weights.ImageNetWeights):
        url = "http://127.0.0.1:1/gone.pth"  # type: ignore[assignment]

    with pytest.raises(WeightsError, match="cannot download"):
        weights.download("imagenet", source=Gone("imagenet", mirror.entry, "00", 1.0))
    assert weights.verify("imagenet") == before


def test_a_cached_file_that_was_tampered_with_is_refused(mirror: weights.ImageNetWeights) -> None:
    """One flipped bit, and neither verify nor load takes it."""
    path = weights.download("imagenet", source=mirror)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(WeightsError, match="recorded was"):
        weights.verify("imagenet")
    with pytest.raises(WeightsError, match="impasto weights download imagenet"):
        load_network("imagenet", CPU)


def test_a_path_is_taken_in_either_format(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    """.safetensors and .pth of the same filters load the same network, named after the file."""
    save_file(state, tmp_path / "mine.safetensors")
    torch.save(state, tmp_path / "mine.pth")
    canvas = torch.rand(1, 3, 16, 16)
    one, two = (load_network(str(tmp_path / name), CPU) for name in ("mine.safetensors", "mine.pth"))
    assert one.weights.name == "mine.safetensors"
    for layer, features in one.features(canvas, ("relu5_3",)).items():
        assert torch.equal(features, two.features(canvas, (layer,))[layer])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{", "not a readable state dict"),
        ("text.pth", b"hello", "state dict"),
        ("empty.safetensors", b"", "not a readable state dict"),
    ],
)
def test_damaged_files_are_one_clear_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """Whatever the loader raised inside."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        load_network(str(tmp_path / name), CPU)


def test_wrong_networks_are_told_apart(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    """Missing, misshapen and non-finite filters are named; a missing file lists what there is; code is not run."""
    broken = {key: value for key, value in state.items() if key != "features.28.bias"}
    save_file(broken, tmp_path / "missing.safetensors")
    with pytest.raises(WeightsError, match=r"has no features\.28\.bias"):
        load_network(str(tmp_path / "missing.safetensors"), CPU)
    save_file({**state, "features.0.bias": torch.zeros(3)}, tmp_path / "shape.safetensors")
    with pytest.raises(WeightsError, match=r"features\.0\.bias has shape \[3\], vgg16 has \[64\]"):
        load_network(str(tmp_path / "shape.safetensors"), CPU)
    save_file({**state, "features.0.bias": torch.full((64,), torch.nan)}, tmp_path / "nan.safetensors")
    with pytest.raises(WeightsError, match="not finite"):
        load_network(str(tmp_path / "nan.safetensors"), CPU)
    torch.save({"features.0.bias": Path}, tmp_path / "code.pth")
    with pytest.raises(WeightsError, match="state dict"):
        load_network(str(tmp_path / "code.pth"), CPU)
    with pytest.raises(WeightsError, match="no such file, and none of auto, builtin, random-SEED, imagenet"):
        load_network("nowhere.pth", CPU)
    with pytest.raises(WeightsError, match="run: impasto weights download imagenet-v1"):
        load_network("imagenet-v1", CPU)


def test_both_published_networks_are_described() -> None:
    """Addresses and normalization come from torchvision; nothing is fetched here."""
    caffe, torchvision = IMAGENET["imagenet"], IMAGENET["imagenet-v1"]
    assert caffe.sha256 in caffe.url
    assert torchvision.sha256[:8] in torchvision.url
    assert caffe.info("x").std == pytest.approx((1 / 255,) * 3)
    assert torchvision.info("x").std == (0.229, 0.224, 0.225)
