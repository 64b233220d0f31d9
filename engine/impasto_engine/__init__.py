"""The numerics of impasto: neural style transfer for a batch of canvases. Knows torch, and nothing of the wire.

Imports nothing here, so that :mod:`impasto_engine.parameters`, which is plain data, comes without torch.
"""
