"""Sounds in: any file that libsndfile reads, as one mono wave at one rate."""

from paintover.sound.limits import Limits
from paintover.sound.open import RATE, Sound, open

__all__ = ["RATE", "Limits", "Sound", "open"]
