"""The processes that paint, and the server's side of them."""
