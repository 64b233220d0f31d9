"""The numerics of impasto: neural style transfer for a batch of canvases. Depends on torch, not on gRPC or protobuf.

This module does not import torch. :mod:`impasto_engine.parameters`, which is plain data, can therefore be imported without it,
and the wait policy of its threads is set before it is loaded.
"""

from impasto_engine.threads import share_cores

share_cores()
