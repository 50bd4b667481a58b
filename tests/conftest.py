"""Settings that every test shares."""

import os

# Before torch is imported anywhere: tiny models run fastest on one thread, and the same everywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
