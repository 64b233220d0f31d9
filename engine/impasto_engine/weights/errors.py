"""The error of this package."""

from __future__ import annotations

from impasto_engine.cache import WeightsError


class MissingPackageError(WeightsError):
    """A package of an extra is needed and not installed.

    Attributes:
        what: What needs it.
        package: Its name.
        extra: The extra of pyproject.toml that contains it.
    """

    def __init__(self, what: str, package: str, extra: str = "weights") -> None:
        super().__init__(f"{what} needs the package {package}, of the extra {extra!r}")
        self.what, self.package, self.extra = what, package, extra
