"""Parameters in the query that a path does not take."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from fastapi import Request

from impasto.errors import InvalidRequest
from impasto.protobuf_fields import invalid, together

_MOST_NAMED = 20


async def only_known(request: Request) -> None:
    """Check that a path of the API takes every parameter in the query. For routers, as a dependency.

    Probes (``/healthz``, ``/readyz``) take any: load balancers add theirs.

    Raises:
        InvalidRequest: If it does not; the error names those that are unknown.
    """
    if not request.scope["route"].path.startswith("/v1/"):
        return
    known = [field.alias for field in request.scope["route"].dependant.query_params]
    unknown = [name for name in dict.fromkeys(request.query_params) if name not in known]
    if unknown:
        raise together([_unknown(name, known) for name in unknown[:_MOST_NAMED]])


def _unknown(name: str, known: Sequence[str]) -> InvalidRequest:
    name = name[:80]
    close = difflib.get_close_matches(name, known, 1)
    takes = f"the path takes {', '.join(known)}" if known else "the path takes none in the query"
    return invalid(name, "is not a parameter; " + (f"did you mean {close[0]}?" if close else takes))
