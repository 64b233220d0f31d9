"""What is kept: jobs, events, pictures, uploads."""
