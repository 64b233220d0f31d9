"""The worker processes, and the server's side of them."""
