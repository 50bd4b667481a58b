"""Metrics, benchmarks with a known truth, and their reports."""
