"""Runs paths, alone or many at once, and keeps what they prepared."""
