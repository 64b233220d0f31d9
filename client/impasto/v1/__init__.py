"""Generated from proto/impasto/v1 by ``make proto``."""
