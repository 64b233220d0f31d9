"""The edge: the contract's handlers, conversion, validation, limits, statuses."""
