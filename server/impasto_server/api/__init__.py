"""The gRPC API: handlers, conversion, validation, limits, statuses."""
