"""Measure the throughput of a training configuration."""
