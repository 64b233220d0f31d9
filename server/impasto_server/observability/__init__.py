"""Metrics, traces, logs, probes and the watchdog."""
