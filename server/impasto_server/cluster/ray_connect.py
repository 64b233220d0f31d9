"""Connects a process to a Ray cluster, and says in plain words why it cannot."""

from __future__ import annotations

import os
import platform
import re
import warnings

GREET_S = 5.0
"""Seconds for the first answer of the control store."""
_GREETING = "/ray.rpc.NodeInfoGcsService/GetClusterId"


class ConnectError(Exception):
    """The cluster cannot be used.

    Args:
        text: Why, and what to do.
        permanent: Whether trying again is useless as long as nobody changes anything.
    """

    def __init__(self, text: str, *, permanent: bool) -> None:
        super().__init__(text)
        self.permanent = permanent


def check_address(address: str) -> None:
    """Check the address of a cluster.

    Raises:
        ValueError: If it is not HOST:PORT.
    """
    if address.startswith("ray://"):
        raise ValueError(
            f"cluster must be HOST:PORT of Ray's control store (port 6379), got {address!r}: Ray's client protocol loses its "
            "actors when it reconnects; run a Ray node on this machine instead: ray start --address=HOST:6379 --num-cpus=0"
        )
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdigit() or not 0 < int(port) < 65536 or "/" in host:
        raise ValueError(f"cluster must be HOST:PORT of Ray's control store (port 6379), got {address!r}")


def connect(address: str, namespace: str) -> str:
    """Connect this process as a driver. Returns Ray's version.

    Raises:
        ConnectError: If it does not succeed.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as future versions of Ray; silences a warning
    warnings.simplefilter("ignore")
    try:
        import ray  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConnectError(f"Ray cannot be imported ({error}): pip install 'impasto[ray]'", permanent=True) from None
    _greet(address)
    try:
        ray.init(address, namespace=namespace, log_to_driver=False, logging_level="error")
    except Exception as error:
        raise _explained(address, error) from error
    return str(ray.__version__)


def _greet(address: str) -> None:
    """Call the control store once: ray.init would repeat a call that is refused or not answered for a minute.

    Raises:
        ConnectError: If it does not answer, or refuses the token.
    """
    import grpc  # noqa: PLC0415 - only where Ray is
    from ray._private.grpc_utils import init_grpc_channel  # noqa: PLC0415 - with Ray's TLS and token

    try:
        with init_grpc_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
            channel.unary_unary(_GREETING)(b"", timeout=GREET_S, wait_for_ready=True)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            raise _refused(address) from None
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            raise ConnectError(f"Ray's control store at {address} does not answer", permanent=False) from None
    except Exception as error:  # Ray's own, without a token where RAY_AUTH_MODE asks for one
        raise _explained(address, error) from error


def _refused(address: str) -> ConnectError:
    mode = os.environ.get("RAY_AUTH_MODE") or "disabled"
    hint = "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH must be the same everywhere"
    return ConnectError(f"the cluster at {address} refuses this server (RAY_AUTH_MODE is {mode} here): {hint}", permanent=True)


def _explained(address: str, error: Exception) -> ConnectError:
    text = str(error)
    found = re.findall(r"Ray: (\S+)\s+Python: (\S+)", text)
    if len(found) == 2:
        (theirs, their_python), (ours, our_python) = found
        return ConnectError(
            f"the cluster at {address} runs Ray {theirs} with Python {their_python}, this server has Ray {ours} with Python "
            f"{our_python}: both must be equal, Python to the patch level; use one image for all",
            permanent=True,
        )
    if type(error).__name__ == "AuthenticationError" or "authentication" in text.lower() or "unauthenticated" in text.lower():
        return _refused(address)
    if "raylet" in text or "node_ip_address.json" in text:
        return ConnectError(
            f"no Ray node of the cluster at {address} runs on {platform.node()}, where the server is: start one that offers "
            f"nothing, ray start --address={address} --num-cpus=0 --num-gpus=0",
            permanent=False,
        )
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return ConnectError(f"the cluster at {address} cannot be reached: {first}", permanent=False)
