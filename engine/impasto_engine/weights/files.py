"""Reads convolutions from a file: a state dict (.pth, .pt, .safetensors), ONNX, or Keras HDF5. Nothing in it is executed."""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from impasto_engine.cache import WeightsError
from impasto_engine.weights.convolutions import Contents, Convolution, natural
from impasto_engine.weights.errors import MissingPackageError

MAX_FILE_BYTES = 4 << 30
_HDF5 = b"\x89HDF\r\n\x1a\n"
_KINDS = (".pth", ".pt", ".safetensors", ".onnx", ".h5")
_ZIP = b"PK\x03\x04"
_MAX_VALUES = 1 << 28
_MAX_KERNEL_VALUES = 1 << 24
"""Larger than any VGG: limits on the memory that a file can make us allocate."""
_IGNORED_NODES = ("Identity", "Transpose", "Cast")
_MAX_NODES = 8
"""Maximum number of graph nodes between a constant or the picture and its use."""


_NO_BIAS = torch.empty(0)
"""Marks a missing bias."""


def read_convolutions(path: Path) -> Contents:
    """Return the convolutions of a file. The format is detected from its first bytes and its name.

    Raises:
        WeightsError: If the file cannot be read, its format is not supported, or the library that reads it is not installed.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise WeightsError(f"{path}: larger than {MAX_FILE_BYTES >> 30} GiB")
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from error
    suffix = path.suffix.lower()
    reader: Callable[[Path], Contents]
    if head == _HDF5:
        reader = _read_hdf5
    elif suffix == ".onnx":
        reader = _read_onnx
    elif suffix == ".safetensors":
        reader = _read_safetensors
    elif suffix in (".h5", ".hdf5"):
        raise WeightsError(f"{path}: not an HDF5 file, despite its name")
    elif suffix in (".whl", ".zip", ".keras") and head.startswith(_ZIP):
        raise WeightsError(f"{path}: an archive; unpack it and import the weights file in it ({_listing(path)})")
    elif suffix in (".pth", ".pt", ".ckpt", ".bin"):
        reader = _read_torch
    else:
        raise WeightsError(f"{path}: unsupported file type; supported types: {', '.join(_KINDS)}")
    return reader(path)


def _listing(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [
                name for name in archive.namelist() if Path(name).suffix in (".pth", ".pt", ".safetensors", ".onnx", ".h5")
            ]
    except (zipfile.BadZipFile, OSError):
        return "it is damaged"
    return ", ".join(names[:5]) or "it contains none"


def read_state(path: Path) -> dict[str, Tensor]:
    """Return a torch state dict, or the state dict within a checkpoint.

    Raises:
        WeightsError: If there is no state dict, or the file contains anything but tensors. Pickled code is never run.
    """
    if path.suffix.lower() == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise WeightsError(f"{path}: not a readable .safetensors file ({error})") from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # UnpicklingError, RuntimeError, OSError and, for some files, bare errors
        raise WeightsError(f"{path}: not a safe, readable state dict ({type(error).__name__})") from error
    state = _state_in(loaded)
    if state is None:
        raise WeightsError(f"{path}: contains no state dict of tensors")
    return state


def _state_in(loaded: Any) -> dict[str, Tensor] | None:
    """Return the tensors of a state dict, or of the first one within a checkpoint."""
    if not isinstance(loaded, Mapping):
        return None
    tensors = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
    if tensors:
        return tensors
    return next((found for value in loaded.values() if (found := _state_in(value))), None)


def _read_torch(path: Path) -> Contents:
    return _of_state(read_state(path), "a state dict")


def _read_safetensors(path: Path) -> Contents:
    return _of_state(read_state(path), "a .safetensors file")


def _of_state(state: Mapping[str, Tensor], kind: str) -> Contents:
    convolutions = []
    for name, value in state.items():
        if value.ndim == 4:
            bias = state.get(f"{name.removesuffix('weight')}bias") if name.endswith("weight") else None
            convolutions.append(Convolution(name, value, _NO_BIAS if bias is None else bias))
    normalized = tuple(value.numel() for name, value in state.items() if name.endswith("running_mean"))
    return Contents(kind, tuple(convolutions), normalized)


def check_reader(name: str) -> None:
    """Check that the library that reads a file is installed, before the file is downloaded.

    Raises:
        MissingPackageError: If it is not.
    """
    what, package = {".onnx": ("reading ONNX", "onnx"), ".h5": ("reading HDF5", "h5py")}.get(Path(name).suffix, ("", ""))
    if package and importlib.util.find_spec(package) is None:
        raise MissingPackageError(what, package)


def _read_onnx(path: Path) -> Contents:
    try:
        import onnx  # noqa: PLC0415 - in an extra
    except ImportError as error:
        raise MissingPackageError("reading ONNX", "onnx") from error
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError, and file system errors
        raise WeightsError(f"{path}: not a readable ONNX file ({type(error).__name__})") from error
    graph = _Graph(model.graph, path)
    convolutions = tuple(graph.convolutions())
    return Contents("an ONNX model", convolutions, graph.normalized(), graph.preprocessing())


class _Graph:
    """The parts of an ONNX graph that are needed here."""

    def __init__(self, graph: Any, path: Path) -> None:
        self._graph = graph
        self._path = path
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {output: node for node in graph.node for output in node.output}
        self._readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def _nodes(self) -> Iterator[Any]:
        return (node for node in self._graph.node if node.op_type == "Conv")

    def convolutions(self) -> Iterator[Convolution]:
        """Yield the convolutions in graph order, which ONNX requires to be the order of computation."""
        for node in self._nodes():
            weight = self._value(node.input[1]) if len(node.input) > 1 else None
            if weight is None or weight.ndim != 4:
                continue
            yield Convolution(node.input[1], weight, self._bias(node))

    def _bias(self, node: Any) -> Tensor:
        if len(node.input) > 2 and node.input[2]:
            value = self._value(node.input[2])
            return _NO_BIAS if value is None else value
        # Some exporters add the bias in a separate node.
        for reader in self._readers.get(node.output[0], ()):
            if reader.op_type == "Add":
                other = next((name for name in reader.input if name != node.output[0]), "")
                value = self._value(other)
                return _NO_BIAS if value is None else value.flatten()
        return _NO_BIAS

    def normalized(self) -> tuple[int, ...]:
        """Return the channel counts of the batch normalizations that directly follow a convolution."""
        found = []
        for node in self._nodes():
            followers = self._readers.get(node.output[0], ())
            weight = self._tensors.get(node.input[1]) if len(node.input) > 1 else None
            if weight is not None and any(reader.op_type == "BatchNormalization" for reader in followers):
                found.append(int(weight.dims[0]))
        return tuple(found)

    def preprocessing(self) -> tuple[str, ...]:
        """Return the operations on the picture before the first convolution, starting at the input."""
        first = next(self._nodes(), None)
        steps: list[str] = []
        name = first.input[0] if first else ""
        while name in self._makers and len(steps) < _MAX_NODES:
            node = self._makers[name]
            steps.append(node.op_type)
            name = next((item for item in node.input if item not in self._tensors), "")
        return tuple(step for step in reversed(steps) if step not in _IGNORED_NODES)

    def _value(self, name: str) -> Tensor | None:
        """Return a constant of the graph, or None if the value is computed."""
        tensor = self._tensors.get(name)
        for _ in range(_MAX_NODES):
            if tensor is not None or name not in self._makers:
                break
            node = self._makers[name]
            if node.op_type == "Constant":
                tensor = next((item.t for item in node.attribute if item.name == "value"), None)
            elif node.op_type != "Identity":
                break
            else:
                name = node.input[0]
                tensor = self._tensors.get(name)
        return None if tensor is None else self._array(tensor)

    def _array(self, tensor: Any) -> Tensor:
        from onnx import TensorProto, numpy_helper  # noqa: PLC0415 - in an extra

        if tensor.data_location == TensorProto.EXTERNAL:
            text = "stores its values in another file, which is not read; save the model with embedded data"
            raise WeightsError(f"{self._path}: {tensor.name!r} {text}")
        size = 1
        for side in tensor.dims:
            size *= int(side)
        if not 0 <= size <= _MAX_VALUES:
            raise WeightsError(f"{self._path}: {tensor.name!r} has {size} values, more than any VGG")
        try:
            return torch.from_numpy(numpy_helper.to_array(tensor).copy())
        except Exception as error:  # ValueError, TypeError and others, depending on what is missing
            raise WeightsError(f"{self._path}: {tensor.name!r} is damaged ({type(error).__name__})") from error


def _read_hdf5(path: Path) -> Contents:
    try:
        import h5py  # noqa: PLC0415 - in an extra
    except ImportError as error:
        raise MissingPackageError("reading HDF5", "h5py") from error
    try:
        with h5py.File(path, "r") as file:
            arrays, total = [], 0
            for name, value in _arrays(file, path, h5py):
                arrays.append((name, value))
                total += 0 if value.is_meta else value.numel()
                if total > _MAX_VALUES:
                    raise WeightsError(f"{path}: its kernels have more than {_MAX_VALUES} values, more than any VGG")
            found = dict(sorted(arrays, key=lambda item: natural(item[0])))
    except WeightsError:
        raise
    except Exception as error:  # OSError, KeyError, RuntimeError and others, depending on the damage
        raise WeightsError(f"{path}: not a readable HDF5 file ({type(error).__name__})") from error
    kernels = {name: value for name, value in found.items() if value.ndim == 4}
    convolutions = [
        # Keras: height, width, input channels, output channels.
        Convolution(name, value.permute(3, 2, 0, 1).contiguous(), _keras_bias(name, found))
        for name, value in kernels.items()
    ]
    if any(value.shape == (64, 3, 3, 3) for value in kernels.values()):
        raise WeightsError(f"{path}: kernels in Theano's layout (filters first, mirrored) are not supported")
    moving = tuple(value.numel() for name, value in found.items() if "moving_mean" in name)
    return Contents("a Keras HDF5 file", tuple(convolutions), moving)


def _arrays(group: Any, path: Path, h5py: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Yield the floating-point arrays of a group, recursively. Links are not followed."""
    if depth > 16:
        raise WeightsError(f"{path}: groups are nested too deeply")
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise WeightsError(f"{path}: {prefix}{name!r} is a link, which is not followed")
        item = group[name]
        # Keras 3 names variables by number and stores the name of their layer in an attribute.
        if isinstance(item, h5py.Group):
            layer = item.attrs.get("name")
            named = f"{prefix}{name}{'[' + layer + ']' if isinstance(layer, str) else ''}/"
            if name != "optimizer" and not name.startswith("optimizer_weights"):
                yield from _arrays(item, path, h5py, named, depth + 1)
        elif isinstance(item, h5py.Dataset) and item.ndim in (1, 4) and item.dtype.kind == "f":
            yield f"{prefix}{name}", _array_of(item, path)


def _array_of(item: Any, path: Path) -> Tensor:
    if item.external or item.is_virtual:
        raise WeightsError(f"{path}: {item.name!r} stores its values in another file, which is not read")
    if item.ndim == 4 and (item.shape[:2] != (3, 3) or item.size > _MAX_KERNEL_VALUES):
        return torch.empty(item.shape, device="meta")  # only the shape is needed
    if item.ndim == 1 and item.size > _MAX_KERNEL_VALUES:
        return torch.empty(0)
    return torch.from_numpy(item[()].astype("float32"))


def _keras_bias(name: str, found: Mapping[str, Tensor]) -> Tensor:
    """Return the bias of a kernel: the only 1-D array of its group, or the one with a matching name."""
    group = name.rpartition("/")[0]
    beside = [value for other, value in found.items() if other.rpartition("/")[0] == group and value.ndim == 1]
    if len(beside) == 1:
        return beside[0]
    for before, after in (("kernel", "bias"), ("_W", "_b"), ("/W", "/b")):
        if (other := name.replace(before, after)) != name and other in found:
            return found[other]
    return _NO_BIAS
