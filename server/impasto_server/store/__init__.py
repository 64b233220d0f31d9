"""Storage of jobs, events, pictures and uploads."""
