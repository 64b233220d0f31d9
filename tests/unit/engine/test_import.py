"""Filters from state dicts, ONNX and HDF5 files of different origins; invalid and malicious files."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from impasto_engine import weights
from impasto_engine.networks import Network, random_trunk
from impasto_engine.weights import Given, WeightsError, load_network
from impasto_engine.weights.convolutions import expected, natural
from impasto_engine.weights.inputs import _CAFFE_BIASES, _CAFFE_COLORS, _TORCHVISION_BIASES

CPU = torch.device("cpu")
Pair = tuple[np.ndarray, np.ndarray]
BLOCKS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
CAFFE = Given("bgr", 255)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test its own cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("IMPASTO_CACHE", str(folder))
    return folder


def pairs(architecture: str = "vgg16", seed: int = 3) -> list[Pair]:
    """Return kernels (output channels first) and biases of a random network."""
    generator = np.random.default_rng(seed)
    found = []
    for shape in expected(architecture):
        deviation = (2 / np.prod(shape[1:])) ** 0.5
        kernel = generator.standard_normal(shape, dtype=np.float32) * np.float32(deviation)
        found.append((kernel, generator.standard_normal(shape[0], dtype=np.float32) * np.float32(0.1)))
    return found


@pytest.fixture(scope="module")
def vgg() -> list[Pair]:
    """Return a random VGG16, the same for every test."""
    return pairs()


def keras_names(architecture: str = "vgg16") -> list[str]:
    """Return Keras' names for the convolutions."""
    return [f"block{block}_conv{item}" for block, count in enumerate(BLOCKS[architecture], 1) for item in range(1, count + 1)]


def to_onnx(path: Path, found: list[Pair], names: list[str], change: Callable[[Any], None] = lambda _model: None) -> Path:
    """Write convolutions as an ONNX model: one node per convolution, with activations in between."""
    nodes, tensors, at = [], [], "input"
    for name, (kernel, bias) in zip(names, found, strict=True):
        tensors += [numpy_helper.from_array(kernel, f"{name}/kernel:0"), numpy_helper.from_array(bias, f"{name}/bias:0")]
        nodes.append(helper.make_node("Conv", [at, f"{name}/kernel:0", f"{name}/bias:0"], [name], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [name], [f"{name}/relu"]))
        at = f"{name}/relu"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info(at, TensorProto.FLOAT, None)],
        tensors[::-1],  # initializers are unordered; the nodes define the order
    )
    model = helper.make_model(graph)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def to_keras3(path: Path, found: list[Pair]) -> Path:
    """Write convolutions in the Keras 3 weights format: numbered variables in numbered layers."""
    with h5py.File(path, "w") as file:
        for index, (kernel, bias) in enumerate(found):
            layer = file.create_group(f"layers/conv2d{f'_{index}' if index else ''}/vars")
            layer["0"], layer["1"] = kernel.transpose(2, 3, 1, 0), bias
        file["layers/dense/vars/0"] = np.zeros((4, 4), np.float32)
    return path


def to_keras2(path: Path, found: list[Pair], names: list[str]) -> Path:
    """Write convolutions in the Keras 2 format: a group for each layer, with named arrays."""
    with h5py.File(path, "w") as file:
        for name, (kernel, bias) in zip(names, found, strict=True):
            file[f"model_weights/{name}/{name}/kernel:0"] = kernel.transpose(2, 3, 1, 0)
            file[f"model_weights/{name}/{name}/bias:0"] = bias
    return path


def to_state(found: list[Pair], architecture: str = "vgg16", prefix: str = "features.") -> dict[str, torch.Tensor]:
    """Return convolutions as a state dict with torchvision's keys."""
    trunk = random_trunk(architecture, 0)
    kernels = [key for key in trunk.state_dict() if key.endswith("weight")]
    state = {}
    for key, (kernel, bias) in zip(kernels, found, strict=True):
        state[f"{prefix}{key}"], state[f"{prefix}{key.replace('weight', 'bias')}"] = map(torch.from_numpy, (kernel, bias))
    return state


def check_features(network: Network, found: list[Pair], channels: str, value_range: int, mean: tuple[float, ...]) -> None:
    """Compare a network's features with those of plain convolutions on input in the file's documented format."""
    picture = torch.rand(1, 3, 32, 24, generator=torch.Generator().manual_seed(5))
    seen = network.features(picture, ("conv1_2", "relu5_1"))
    x = (picture if channels == "rgb" else picture.flip(1)) * value_range
    x = x - torch.tensor(mean).view(1, 3, 1, 1)
    if value_range == 1:
        std = torch.tensor((0.229, 0.224, 0.225) if channels == "rgb" else (0.225, 0.224, 0.229))
        x = x / std.view(1, 3, 1, 1)
    first = found[0], found[1]
    for index, (kernel, bias) in enumerate(first):
        x = torch.nn.functional.conv2d(x, torch.from_numpy(kernel), torch.from_numpy(bias), padding=1)
        x = x if index else x.relu()
    torch.testing.assert_close(seen["conv1_2"], x / network.weights.unit, rtol=1e-4, atol=1e-4)


BGR_MEAN = (103.939, 116.779, 123.68)


@pytest.mark.parametrize("kind", ["onnx", "keras3", "keras2", "pth", "safetensors"])
def test_every_kind_of_file_gives_the_same_network(kind: str, tmp_path: Path, vgg: list[Pair]) -> None:
    """A VGG16 for BGR pixels up to 255, in each format: same filters, same features, source and hash recorded."""
    path = tmp_path / f"mine.{'h5' if kind.startswith('keras') else kind}"
    if kind == "onnx":
        to_onnx(path, vgg, [f"layer{index}" for index in range(13)])
    elif kind == "keras3":
        to_keras3(path, vgg)
    elif kind == "keras2":
        to_keras2(path, vgg, keras_names())
    elif kind == "pth":
        torch.save({"epoch": 3, "state_dict": to_state(vgg, prefix="module.vgg.features.")}, path)
    else:
        save_file(to_state(vgg, prefix="slice."), path)
    record = weights.import_file(path, "other", CAFFE)
    assert (record.architecture, record.name, record.source) == ("vgg16", "other", path.name)
    assert record.as_published == ()
    assert weights.verify("other").sha256 == record.sha256
    assert "vgg16:other" in weights.available()
    network = load_network("other", CPU)
    assert network.weights.unit == 57.6
    check_features(network, vgg, "bgr", 255, BGR_MEAN)


@pytest.mark.parametrize(
    ("given", "mean"),
    [
        (Given("rgb", 255), (123.68, 116.779, 103.939)),
        (Given("bgr", 255, (100.0, 110.0, 120.0), (1.0, 1.0, 1.0)), (100.0, 110.0, 120.0)),
        (Given("rgb", 1), (0.485, 0.456, 0.406)),
        (Given("bgr", 1), (0.406, 0.456, 0.485)),
    ],
)
def test_order_and_range_are_taken_as_given(given: Given, mean: tuple[float, ...], tmp_path: Path, vgg: list[Pair]) -> None:
    """In every combination the network gets its documented input format, with means in the file's channel order."""
    path = to_onnx(tmp_path / "mine.onnx", vgg, [f"layer{index}" for index in range(13)])
    weights.import_file(path, "mine", given)
    assert given.channels
    assert given.range
    check_features(load_network("mine", CPU), vgg, given.channels, given.range, mean)


@pytest.mark.slow
def test_order_and_range_are_told_by_fingerprint_then_by_names(tmp_path: Path, vgg: list[Pair]) -> None:
    """Fine-tuned from the authors' filters in either order, from torchvision's, or recognized only by the layer names."""
    authors = [(kernel.copy(), bias.copy()) for kernel, bias in vgg]
    authors[0][1][:8] = np.array(_CAFFE_BIASES) * 1.05
    for filter_, sums in _CAFFE_COLORS.items():
        authors[0][0][filter_] = np.array(sums, np.float32).reshape(3, 1, 1) / 9
    flipped = [(authors[0][0][:, ::-1].copy(), authors[0][1]), *authors[1:]]
    own = [(vgg[0][0], vgg[0][1].copy()), *vgg[1:]]
    own[0][1][:8] = _TORCHVISION_BIASES
    for name, found, wanted in (
        ("rgb", authors, "RGB, 0 to 255: its first filters resemble those of VGG's authors"),
        ("bgr", flipped, "BGR, 0 to 255: its first filters resemble those of VGG's authors"),
        ("own", own, "RGB, 0 to 1: its first filters resemble torchvision's"),
    ):
        save_file(to_state(found), tmp_path / f"{name}.safetensors")
        assert weights.import_file(tmp_path / f"{name}.safetensors").input == wanted
    save_file(to_state(vgg), tmp_path / "named.safetensors")
    assert weights.import_file(tmp_path / "named.safetensors").input == "RGB, 0 to 1: it uses torchvision's layer names"
    to_keras2(tmp_path / "named.h5", vgg, keras_names())
    assert weights.import_file(tmp_path / "named.h5", "keras").input == "BGR, 0 to 255: it uses Keras' layer names"


def test_a_file_that_does_not_tell_is_refused_not_guessed(tmp_path: Path, vgg: list[Pair]) -> None:
    """The error names both options, or the missing one if the other is given."""
    path = to_onnx(tmp_path / "mine.onnx", vgg, [f"layer{index}" for index in range(13)])
    with pytest.raises(WeightsError, match=r"give --input rgb\|bgr and --range 1\|255"):
        weights.import_file(path)
    with pytest.raises(WeightsError, match=r"give --range 1\|255$"):
        weights.import_file(path, given=Given(channels="rgb"))


@pytest.mark.slow
def test_vgg19_is_found_and_told_from_vgg16(tmp_path: Path) -> None:
    """Both are recognized by shapes alone, also inside a network with additional layers."""
    found = pairs("vgg19")
    names = [f"conv{index}" for index in range(len(found) + 2)]
    head = [(np.zeros((1, 512, 1, 1), np.float32), np.zeros(1, np.float32))]
    tail = [(np.zeros((1024, 512, 3, 3), np.float32), np.zeros(1024, np.float32))]
    record = weights.import_file(to_onnx(tmp_path / "nineteen.onnx", [*found, *head, *tail], names), given=CAFFE)
    assert (record.id, record.as_published) == ("vgg19:nineteen", None)
    check_features(load_network("vgg19:nineteen", CPU), found, "bgr", 255, BGR_MEAN)
    torch.save(to_state(found, "vgg19"), tmp_path / "v.pth")
    with pytest.raises(WeightsError, match="contains vgg19; use vgg19:"):
        load_network(str(tmp_path / "v.pth"), CPU)


def test_names_sort_as_people_count() -> None:
    """Numbers sort by value, and a layer without a number comes before the numbered ones."""
    names = ["conv2d_10/vars/0", "conv2d_2/vars/0", "conv2d/vars/0", "block10/x", "block2/x"]
    assert sorted(names, key=natural) == ["block2/x", "block10/x", "conv2d/vars/0", "conv2d_2/vars/0", "conv2d_10/vars/0"]


def test_another_network_is_refused_with_what_was_found(tmp_path: Path, vgg: list[Pair]) -> None:
    """The error lists the convolutions, or names batch normalization, two networks in one file, or a graph's preprocessing."""
    few = to_onnx(tmp_path / "few.onnx", vgg[:4], list("abcd"))
    with pytest.raises(WeightsError, match=r"ONNX model without a VGG16 or VGG19: it contains 4 convolutions .*3-64 \(3 x 3\)"):
        weights.import_file(few, given=CAFFE)
    state = to_state(vgg)
    for index, (kernel, _) in enumerate(vgg):
        state[f"norm.{index}.running_mean"] = torch.zeros(len(kernel))
    save_file(state, tmp_path / "bn.safetensors")
    with pytest.raises(WeightsError, match="vgg16 with batch normalization"):
        weights.import_file(tmp_path / "bn.safetensors", given=CAFFE)
    two = {**to_state(vgg, prefix="a."), **to_state(pairs(seed=4), prefix="b.")}
    save_file(two, tmp_path / "two.safetensors")
    with pytest.raises(
        WeightsError, match=r"contains vgg16 2 times with different values, starting at 'a\.0\.weight', 'b\.0\.weight'"
    ):
        weights.import_file(tmp_path / "two.safetensors", given=CAFFE)

    def subtracts(model: Any) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 3, 1, 1), np.float32), "mean"))
        model.graph.node[0].input[0] = "centred"
        model.graph.node.insert(0, helper.make_node("Sub", ["input", "mean"], ["centred"]))

    path = to_onnx(tmp_path / "pre.onnx", vgg, keras_names(), subtracts)
    with pytest.raises(WeightsError, match=r"changes the picture before the first convolution \(Sub\)"):
        weights.import_file(path)
    weights.import_file(path, given=Given("bgr", 255, (0.0, 0.0, 0.0)))


@pytest.mark.slow
def test_hostile_onnx_is_refused(tmp_path: Path, vgg: list[Pair]) -> None:
    """External data inside or outside the folder, absurd shapes and truncated files: one clear error, and nothing is read."""

    def elsewhere(location: str) -> Callable[[Any], None]:
        def change(model: Any) -> None:
            for tensor in model.graph.initializer:
                if tensor.name.startswith("block1_conv1/kernel"):
                    tensor.ClearField("raw_data")
                    tensor.data_location = TensorProto.EXTERNAL
                    tensor.external_data.add(key="location", value=location)

        return change

    for number, location in enumerate(("weights.bin", "../../etc/passwd", "/etc/passwd")):
        path = to_onnx(tmp_path / f"outside{number}.onnx", vgg, keras_names(), elsewhere(location))
        with pytest.raises(WeightsError, match="'block1_conv1/kernel:0' stores its values in another file, which is not read"):
            weights.import_file(path)

    def huge(model: Any) -> None:
        model.graph.initializer[-1].dims[0] = 1 << 40

    with pytest.raises(WeightsError, match="values, more than any VGG"):
        weights.import_file(to_onnx(tmp_path / "huge.onnx", vgg, keras_names(), huge))

    def short(model: Any) -> None:
        model.graph.initializer[-1].raw_data = model.graph.initializer[-1].raw_data[:-4]

    with pytest.raises(WeightsError, match="is damaged"):
        weights.import_file(to_onnx(tmp_path / "short.onnx", vgg, keras_names(), short))
    whole = to_onnx(tmp_path / "whole.onnx", vgg, keras_names()).read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="not a readable ONNX file"):
        weights.import_file(tmp_path / "cut.onnx")
    assert weights.available() == ("vgg16:builtin",)


@pytest.mark.slow
def test_hostile_hdf5_is_refused(tmp_path: Path, vgg: list[Pair]) -> None:
    """Links, external data, kernels of absurd size (which compress well), mirrored kernels and truncated files."""
    to_keras2(tmp_path / "other.h5", vgg[:1], ["block1_conv1"])
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["layer"] = h5py.ExternalLink("other.h5", "/model_weights")
    with pytest.raises(WeightsError, match="'layer' is a link, which is not followed"):
        weights.import_file(tmp_path / "link.h5")
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file.create_dataset("k", (3, 3, 3, 64), "f4", external=[(str(tmp_path / "other.h5"), 0, h5py.h5f.UNLIMITED)])
    with pytest.raises(WeightsError, match="stores its values in another file, which is not read"):
        weights.import_file(tmp_path / "raw.h5")
    with h5py.File(tmp_path / "bomb.h5", "w") as file:
        for index in range(20):
            file.create_dataset(f"k{index}", (3, 3, 1 << 20, 1 << 20), "f4", chunks=(3, 3, 64, 64), compression="gzip")
            file.create_dataset(f"b{index}", (1 << 50,), "f4", chunks=(1 << 10,), compression="gzip")
    with pytest.raises(WeightsError, match="without a VGG16 or VGG19: it contains 20 convolutions"):
        weights.import_file(tmp_path / "bomb.h5")
    with h5py.File(tmp_path / "many.h5", "w") as file:
        for index in range(40):
            file.create_dataset(f"k{index}", (3, 3, 1 << 10, 1 << 10), "f4", chunks=(3, 3, 64, 64), compression="gzip")
    with pytest.raises(WeightsError, match="more than any VGG$"):
        weights.import_file(tmp_path / "many.h5")
    with h5py.File(tmp_path / "theano.h5", "w") as file:
        file["conv/kernel"] = vgg[0][0]
    with pytest.raises(WeightsError, match="mirrored"):
        weights.import_file(tmp_path / "theano.h5")
    whole = to_keras3(tmp_path / "whole.h5", vgg).read_bytes()
    for kept in (len(whole) // 2, 600, 8):
        (tmp_path / "cut.h5").write_bytes(whole[:kept])
        with pytest.raises(WeightsError, match="not a readable HDF5 file"):
            weights.import_file(tmp_path / "cut.h5")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(WeightsError, match="not an HDF5 file"):
        weights.import_file(tmp_path / "text.h5")
    assert weights.available() == ("vgg16:builtin",)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("owned"),))


def test_a_pickle_with_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in torch's archive format nor as a bare pickle."""
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": _Evil()}, "evil.pth")
    Path("bare.pth").write_bytes(pickle.dumps(_Evil()))
    for name in ("evil.pth", "bare.pth"):
        with pytest.raises(WeightsError, match="not a safe, readable state dict"):
            weights.import_file(Path(name))
    assert not Path("owned").exists()


def test_names_are_checked_and_kept(tmp_path: Path, vgg: list[Pair]) -> None:
    """Reserved, published, existing and invalid names are rejected; --replace replaces; the default name is the file's."""
    path = tmp_path / "my net (2).safetensors"
    save_file(to_state(vgg), path)
    record = weights.import_file(path)
    assert record.name == "my-net-2"
    with pytest.raises(WeightsError, match=r"filters named 'my-net-2' already exist .*--replace"):
        weights.import_file(path)
    before = weights.verify("my-net-2").sha256
    save_file(to_state(pairs(seed=9)), path)
    assert weights.import_file(path, "my-net-2", replace=True).sha256 != before
    for name in ("auto", "builtin", "random-3", "vgg16", "../up", "a b", "x" * 65, ".hidden"):
        with pytest.raises(WeightsError, match="--name"):
            weights.import_file(path, name)
    with pytest.raises(WeightsError, match="refers to published filters"):
        weights.import_file(path, "imagenet-wheel")
    for given in (Given(mean=(1.0, float("nan"), 2.0)), Given(std=(1.0, 0.0, 1.0))):
        with pytest.raises(WeightsError, match=r"--mean|--std"):
            weights.import_file(path, "other", given)


def test_an_archive_says_what_to_do(tmp_path: Path) -> None:
    """For an unknown wheel, the error names the files in it that could be imported."""
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as archive:
        archive.writestr("x/model.onnx", b"")
        archive.writestr("x/readme.txt", b"")
    with pytest.raises(WeightsError, match=r"an archive; unpack it and import the weights file in it \(x/model\.onnx\)"):
        weights.import_file(tmp_path / "x.whl")


def test_missing_libraries_are_named(tmp_path: Path, vgg: list[Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, the errors for ONNX and HDF5 name the required package and how to install it."""
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "h5py", None)
    path = tmp_path / "a.onnx"
    path.write_bytes(b"")
    with pytest.raises(WeightsError, match=r"reading ONNX needs the package onnx, of the extra 'weights'"):
        weights.import_file(path)
    path.write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(WeightsError, match=r"reading HDF5 needs the package h5py, of the extra 'weights'"):
        weights.import_file(path)
