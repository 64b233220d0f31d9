"""Generated from proto/impasto/worker/v1 by ``make proto``."""
