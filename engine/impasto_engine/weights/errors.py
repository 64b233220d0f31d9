"""The error of this package."""

from __future__ import annotations


class WeightsError(Exception):
    """The requested filters are missing, damaged or of the wrong shape. The message says what to do."""
