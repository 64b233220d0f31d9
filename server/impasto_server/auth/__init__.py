"""Authentication: tokens, client certificates, TLS."""
