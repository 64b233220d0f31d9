"""Webhooks: which URLs jobs may name, what they are told, and the sender."""
