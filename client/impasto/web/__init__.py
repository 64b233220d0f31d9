"""The page and the HTTP API: a gateway that stands on the asyncio client and holds no state of its own.

Needs the extra ``web``. docs/design/web.md says how data flows.
"""
