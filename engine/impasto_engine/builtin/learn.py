"""Learn the built-in VGG16 filters from photographs, without labels.

Layer by layer (Coates & Ng, "Learning Feature Representations with K-means", 2012): sample 3x3 patches of the layer's
input, subtract their mean, whiten them by PCA, and run spherical k-means with one centroid per filter. A filter is a
centroid mapped back through the whitening, scaled and shifted so that its response over the photographs has zero mean and
unit standard deviation. Departure from VGG16 during learning: average pooling between the blocks, which preserves the
statistics of the photographs (the learned filters work with either pooling).

Run it with ``make builtin-weights`` (about two minutes on two cores; needs scikit-image, whose wheel contains the
photographs). The package ships the file that it writes. Its SHA-256 is in SHA256SUMS next to it.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
"""Pictures in scikit-image's wheel, all free to use. None is shipped with this package."""

BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Filters of each convolution of VGG16, block by block (Simonyan & Zisserman 2015, configuration D)."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PATCHES_PER_PHOTOGRAPH = 6000
KMEANS_ROUNDS = 12
LONGER_SIDE_PX = 512


def load_photographs(folder: Path) -> list[Tensor]:
    """Return the photographs as normalized ``[1, 3, height, width]`` tensors, longer side 512 px."""
    import numpy as np
    from PIL import Image

    mean = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    pictures = []
    for name in PHOTOGRAPHS:
        with Image.open(folder / name) as image:
            rgb = image.convert("RGB")
        scale = LONGER_SIDE_PX / max(rgb.size)
        rgb = rgb.resize((round(rgb.width * scale), round(rgb.height * scale)), Image.Resampling.LANCZOS)
        pixels = torch.from_numpy(np.asarray(rgb).copy()).permute(2, 0, 1)[None].float() / 255
        pictures.append((pixels - mean) / std)
    return pictures


def draw_patches(inputs: list[Tensor], generator: torch.Generator) -> Tensor:
    """Return random 3x3 patches of the layer's inputs, ``[patches, channels * 9]``, in the layout of convolution kernels."""
    drawn = []
    for features in inputs:
        _, channels, height, width = features.shape
        count = min(PATCHES_PER_PHOTOGRAPH, (height - 2) * (width - 2))
        rows = torch.randint(0, height - 2, (count,), generator=generator)
        columns = torch.randint(0, width - 2, (count,), generator=generator)
        windows = features[0].unfold(1, 3, 1).unfold(2, 3, 1)
        drawn.append(windows[:, rows, columns].permute(1, 0, 2, 3).reshape(count, channels * 9))
    return torch.cat(drawn)


def whitening(patches: Tensor, components: int) -> Tensor:
    """Return the PCA whitening matrix ``[components, dimensions]`` of centred patches."""
    covariance = patches.T @ patches / len(patches)
    eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
    kept = eigenvalues[-components:].clamp_min(eigenvalues[-1] * 1e-6)
    scaled: Tensor = eigenvectors[:, -components:] / (kept + 0.01 * kept.mean()).sqrt()
    return scaled.T


def spherical_kmeans(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Return ``clusters`` unit-length centroids of unit-length ``points``. An empty cluster restarts at a random point."""
    centroids = points[torch.randperm(len(points), generator=generator)[:clusters]].clone()
    for _ in range(KMEANS_ROUNDS):
        similarity, nearest = (points @ centroids.T).max(dim=1)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, points * similarity[:, None])
        empty = sums.norm(dim=1) < 1e-6
        restart = torch.randint(0, len(points), (int(empty.sum()),), generator=generator)
        sums[empty] = points[restart]
        centroids = F.normalize(sums, dim=1)
    return centroids


def learn_layer(inputs: list[Tensor], filters: int, generator: torch.Generator) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return a convolution's weight, bias and rectified outputs on the photographs."""
    channels = inputs[0].shape[1]
    patches = draw_patches(inputs, generator)
    patches = patches - patches.mean(dim=0)
    project = whitening(patches, min(channels * 9, max(27, filters // 2)))
    points = F.normalize(patches @ project.T, dim=1)
    centroids = spherical_kmeans(points, filters, generator)
    weight = (centroids @ project).view(filters, channels, 3, 3)
    responses = [F.conv2d(features, weight, padding=1) for features in inputs]
    total = sum(r.numel() // filters for r in responses)
    mean = torch.stack([r.sum(dim=(0, 2, 3)) for r in responses]).sum(0) / total
    square = torch.stack([(r - mean.view(1, -1, 1, 1)).square().sum(dim=(0, 2, 3)) for r in responses]).sum(0) / total
    deviation = square.sqrt()
    scale = deviation.view(1, -1, 1, 1)
    outputs = [((r - mean.view(1, -1, 1, 1)) / scale).relu() for r in responses]
    return weight / deviation.view(-1, 1, 1, 1), -mean / deviation, outputs


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return 8-bit filters and the float32 scale of each, so that ``filter = bits * scale``."""
    scale = weight.abs().amax(dim=(1, 2, 3)) / 127
    return (weight / scale.view(-1, 1, 1, 1)).round().to(torch.int8), scale


def learn(folder: Path, seed: int = 0) -> dict[str, Tensor]:
    """Return the quantized state dict, with torchvision's keys (``features.N.weight`` and so on)."""
    generator = torch.Generator().manual_seed(seed)
    inputs = load_photographs(folder)
    state: dict[str, Tensor] = {}
    index = 0
    for block, widths in enumerate(BLOCKS, start=1):
        for position, filters in enumerate(widths, start=1):
            began = time.monotonic()
            weight, bias, inputs = learn_layer(inputs, filters, generator)
            bits, scale = quantize(weight)
            state[f"features.{index}.weight"] = bits.contiguous()
            state[f"features.{index}.scale"] = scale
            state[f"features.{index}.bias"] = bias
            print(f"conv{block}_{position}: {filters} filters, {time.monotonic() - began:.1f} s", flush=True)
            index += 2
        inputs = [F.avg_pool2d(features, 2) for features in inputs]
        index += 1
    return state


def main() -> int:
    """Learn the filters and write them together with their SHA-256."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--photographs", type=Path, help="folder of the photographs (default: scikit-image's data)")
    parser.add_argument("--output", type=Path, default=here / "vgg16_builtin.safetensors")
    arguments = parser.parse_args()
    folder = arguments.photographs
    if folder is None:
        import skimage

        folder = Path(skimage.__file__).parent / "data"
    from safetensors.torch import save_file

    with torch.no_grad():
        state = learn(folder)
    save_file(state, arguments.output, metadata={"network": "vgg16", "recipe": "spherical k-means, seed 0"})
    digest = hashlib.sha256(arguments.output.read_bytes()).hexdigest()
    (arguments.output.parent / "SHA256SUMS").write_text(f"{digest}  {arguments.output.name}\n")
    print(f"{arguments.output}: {arguments.output.stat().st_size} bytes, sha256 {digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
