"""Pairs of pictures with an instruction between them, read from the layouts that they are published in."""

from paintover.datasets.dataset import Dataset
from paintover.datasets.opening import KINDS, open_dataset
from paintover.datasets.sample import Row, RowError, Rows, Sample

__all__ = ["KINDS", "Dataset", "Row", "RowError", "Rows", "Sample", "open_dataset"]
