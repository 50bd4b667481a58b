"""Errors that are the user's to mend: one clear line each, which says what was given and what to do."""


class PaintoverError(ValueError):
    """Bad input of any kind. The command line prints its one line and exits with 2."""


class PictureError(PaintoverError):
    """A file that is no picture we can open, or is over a limit."""


class SoundError(PaintoverError):
    """A file that is no sound we can hear, or is over a limit."""


class ModelError(PaintoverError):
    """A bundle that cannot be found or loaded, or lacks what an editor needs."""


class NotFiniteError(ModelError):
    """A model's answer to one request that overflowed, so that there is no picture."""


class KnobError(PaintoverError):
    """An unknown knob, or a value out of its bounds."""


class RequestError(PaintoverError):
    """A request that does not make sense as a whole: empty instruction, unknown editor, mask of another size."""


class ScoreError(PaintoverError):
    """No candidate scored what was asked for, so that there is no result."""


class Cancelled(Exception):
    """A path was cancelled between two steps. Not an error of anybody's."""
