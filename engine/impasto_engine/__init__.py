"""The numerics of impasto: neural style transfer for a batch of canvases. Knows torch, and nothing of the wire.

Imports no torch here, so that :mod:`impasto_engine.parameters`, which is plain data, comes without it; and so that the way its
threads wait is set before it is loaded.
"""

from impasto_engine.threads import share_cores

share_cores()
