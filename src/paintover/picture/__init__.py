"""Pixels in and out: open, fit to the model's grid, put the edit back at native size, provenance."""

from paintover.picture.close import Closed, changed, close
from paintover.picture.geometry import Geometry
from paintover.picture.limits import Limits
from paintover.picture.metadata import Metadata
from paintover.picture.open import Picture, open, open_mask
from paintover.picture.provenance import read as read_provenance
from paintover.picture.save import File, check_target, check_words, save, save_all

__all__ = [
    "Closed",
    "File",
    "Geometry",
    "Limits",
    "Metadata",
    "Picture",
    "changed",
    "check_target",
    "check_words",
    "close",
    "open",
    "open_mask",
    "read_provenance",
    "save",
    "save_all",
]
