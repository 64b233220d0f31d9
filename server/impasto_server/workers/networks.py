"""Networks that a worker holds on its device, and inspection of their filters."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Collection

import torch

from impasto_engine.networks import Network
from impasto_engine.objective import to_canvas
from impasto_engine.weights import load_network
from impasto_server.domain.job import NetworkDescription
from impasto_server.domain.pictures import Plane
from impasto_server.pictures import images
from impasto_server.workers import tensors
from impasto_server.workers.messages import FilterResponse, Inspect, Inspected

logger = logging.getLogger(__name__)
MAX_IDLE_NETWORKS = 3
"""Maximum number of unused networks that are kept, besides the default."""


class Residents:
    """The networks on one device, for several threads.

    Args:
        default: Used if no network is named; never removed.
    """

    def __init__(self, default: Network) -> None:
        self.default = default
        self._networks = OrderedDict({described(default).id: default})
        self._lock = threading.Lock()

    def get(self, name: str, used: Collection[Network]) -> Network:
        """Return a network by name, loaded if needed; unused networks are removed in order of last use.

        Args:
            name: Name as jobs give it; empty for the default.
            used: Networks that must stay.

        Raises:
            WeightsError: If it cannot be loaded.
        """
        if not name:
            return self.default
        with self._lock:
            return self._loaded(name, used)

    def _loaded(self, name: str, used: Collection[Network]) -> Network:
        if name not in self._networks:
            busy = {id(network) for network in used} | {id(self.default)}
            idle = [key for key, network in self._networks.items() if id(network) not in busy]
            for key in idle[: max(0, len(idle) - MAX_IDLE_NETWORKS + 1)]:
                del self._networks[key]
            logger.info("loading %s", name)
            self._networks[name] = load_network(name, self.default.device)
        self._networks.move_to_end(name)
        return self._networks[name]

    def inspect(self, command: Inspect, used: Collection[Network]) -> Inspected:
        """Answer an inspection; a failure is an answer too."""
        try:
            network = self.get(command.network, used)
            canvas = to_canvas(tensors.pixels(command.picture), network.device)
            seen = network.features(canvas, (command.layer,), command.pooling)[command.layer][0]
            spread = seen.flatten(1).std(dim=1, correction=0)
            strongest = spread.argsort(descending=True, stable=True)[: command.count].tolist()
            responses = tuple(_response(seen[index], index) for index in command.filters or strongest)
        except Exception as error:
            # No failure here may affect the jobs.
            logger.exception("an inspection of features failed")
            return Inspected(command.number, error=str(error).partition("\n")[0] or type(error).__name__)
        return Inspected(command.number, responses, described(network))


def described(network: Network) -> NetworkDescription:
    """Return the description of a network."""
    return NetworkDescription(network.name, network.weights.name, network.weights.sha256, network.layers)


def _response(values: torch.Tensor, index: int) -> FilterResponse:
    low, high = float(values.min()), float(values.max())
    grey = (((values - low) / max(high - low, 1e-12)).clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    picture = images.encode_grey(Plane(grey.shape[1], grey.shape[0], grey.numpy().tobytes()))
    return FilterResponse(index, picture, low, high, float(values.mean()), float(values.std(correction=0)))
