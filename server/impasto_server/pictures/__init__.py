"""Decoding and encoding of pictures."""
