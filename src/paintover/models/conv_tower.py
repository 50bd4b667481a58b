"""A small convolutional vision tower, for language models that are taught to see from nothing.

CLIP's vision transformers see after hundreds of millions of pictures. Given tens of thousands, a convolutional network of the
same cost tells the things of the built-in world apart where a transformer still guesses.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.autoencoders.vae import Encoder
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

UNSHUFFLED = 4  # pixels on a side that become one cell's channels before anything else


class ConvTowerConfig(PreTrainedConfig):
    """widths: channels of the levels, each half as fine as the one before; a cell of the last is patch_size pixels wide."""

    model_type = "paintover_conv_tower"

    def __init__(self, image_size: int = 128, widths: tuple[int, ...] = (64, 128, 256), layers: int = 1, **more: Any) -> None:
        self.image_size, self.widths, self.layers = image_size, list(widths), layers
        self.patch_size = UNSHUFFLED * 2 ** (len(widths) - 1)
        self.hidden_size = widths[-1]
        super().__init__(**more)


class ConvTower(PreTrainedModel):
    """pixels_BCHW -> tokens_BND, one for each cell of the last level, row by row; there is no token of the whole."""

    config_class = ConvTowerConfig
    main_input_name = "pixel_values"
    _supports_sdpa = True  # whatever a language model around it is asked for

    def __init__(self, config: ConvTowerConfig) -> None:
        super().__init__(config)
        levels = len(config.widths)
        self.unshuffle = nn.PixelUnshuffle(UNSHUFFLED)
        self.encoder = Encoder(
            in_channels=3 * UNSHUFFLED**2,
            out_channels=config.hidden_size,
            down_block_types=("DownEncoderBlock2D",) * levels,
            block_out_channels=tuple(config.widths),
            layers_per_block=config.layers,
            double_z=False,
        )
        self.colours = nn.Linear(3, config.hidden_size)
        self.post_init()

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        pixels_BCHW = pixel_values.to(self.dtype)
        cells_BDHW = self.encoder(self.unshuffle(pixels_BCHW))
        # The encoder's group norms take out how bright and how warm the whole picture is, which looks are made of.
        colours_BCHW = nn.functional.avg_pool2d(pixels_BCHW, self.config.patch_size)
        tokens_BND = cells_BDHW.flatten(2).transpose(1, 2) + self.colours(colours_BCHW.flatten(2).transpose(1, 2))
        return BaseModelOutputWithPooling(last_hidden_state=tokens_BND, hidden_states=(tokens_BND,))

    def _init_weights(self, module: nn.Module) -> None:
        """As torch does it by itself."""


AutoConfig.register(ConvTowerConfig.model_type, ConvTowerConfig, exist_ok=True)
AutoModel.register(ConvTowerConfig, ConvTower, exist_ok=True)
