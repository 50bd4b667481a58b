"""Training loops, each one command and resumable."""
