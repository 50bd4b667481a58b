"""ImageBind (Girdhar et al. 2023) as a media encoder: pictures and sounds as vectors of one space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from paintover.errors import ModelError
from paintover.models.fbank import RATE, fbank
from paintover.models.imagebind_trunk import ImageBind
from paintover.models.media import Pixels, Wave

_MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, for R, G and B in 0..1
_STD = (0.26862954, 0.26130258, 0.27577711)
_LONGEST = 16  # times its shorter side
_BANK_MEAN, _BANK_STD = -4.268, 9.138  # of the filter banks


class ImageBindEncoder:
    """The image and audio branches; see MediaEncoder. Of a picture that is no square, its middle is seen.

    Of a sound, three clips of 2 s are heard, at its beginning, middle and end (they may overlap; a sound of 2 s or less is
    heard three times), and its vector is the mean of theirs. ImageBind's text branch is not here: `read` raises.
    """

    def __init__(self, network: ImageBind) -> None:
        self.network = network
        self.width: int = network.sizes.out
        self.rate: int = RATE
        self.seconds: float = float(network.sizes.clips * network.sizes.seconds)

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return (self.network,)

    @torch.no_grad()
    def see(self, pictures: Sequence[Pixels]) -> Tensor:
        return self._units([self.network.look(self.view(picture)[None].to(self._weight)) for picture in pictures])

    @torch.no_grad()
    def hear(self, waves: Sequence[Wave]) -> Tensor:
        heard = [self.network.listen(self.clips(wave).to(self._weight)) for wave in waves]
        return self._units([clips_NE.float().mean(dim=0, keepdim=True) for clips_NE in heard])

    def read(self, texts: Sequence[str]) -> Tensor:
        raise ModelError("ImageBind's text branch is not part of this model, so it reads no text; compare media with media")

    def view(self, picture: Pixels) -> Tensor:
        """What is seen of a picture: its shorter side is brought to the network's size, and the middle cut out, normalised."""
        size = self.network.sizes.size
        most = _LONGEST * min(picture.shape[:2])  # of a very long picture only the middle is brought to that size
        first, second = (max(extent - most, 0) // 2 for extent in picture.shape[:2])
        picture = np.ascontiguousarray(picture[first : first + most, second : second + most])
        height, width = picture.shape[:2]
        # Whole pixels of the longer side, cut off as torchvision does, which made the pictures that the network learned from.
        shape = (size, max(size, size * height // width)) if width <= height else (max(size, size * width // height), size)
        scaled = Image.fromarray(picture).resize(shape, Image.Resampling.BICUBIC)
        left, top = (round((extent - size) / 2) for extent in shape)
        cut_HWC = np.asarray(scaled)[top : top + size, left : left + size]
        pixels_CHW = torch.from_numpy(cut_HWC.copy()).permute(2, 0, 1).float() / 255
        return (pixels_CHW - torch.tensor(_MEAN)[:, None, None]) / torch.tensor(_STD)[:, None, None]

    def clips(self, wave: Wave) -> Tensor:
        """banks_NMF of the clips, normalised. Frames that a short sound does not have are zero before that, as in training."""
        sizes = self.network.sizes
        whole_T = torch.from_numpy(np.ascontiguousarray(wave, dtype=np.float32))
        count = sizes.seconds * RATE
        if not len(whole_T):
            whole_T = torch.zeros(count)
        last = max(len(whole_T) - count, 0)
        made = []
        for i in range(sizes.clips):
            start = last * i // max(sizes.clips - 1, 1)
            bank_MF = fbank(whole_T[start : start + count], sizes.bins).T[:, : sizes.length]
            bank_MF = functional.pad(bank_MF, (0, sizes.length - bank_MF.shape[1]))
            made.append((bank_MF - _BANK_MEAN) / _BANK_STD)
        return torch.stack(made)

    @property
    def _weight(self) -> Tensor:
        """Whose device and type the network's inputs must have."""
        return next(self.network.parameters())

    def _units(self, rows: Sequence[Tensor]) -> Tensor:
        """Media are encoded one by one, so that none depends on its neighbours."""
        if not rows:
            return torch.zeros(0, self.width, device=self._weight.device)
        return functional.normalize(torch.cat([row.float() for row in rows]), dim=-1)
