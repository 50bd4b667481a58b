"""The edit head: what a language model imagined, as something that a denoiser can be told (MGIE)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EditHead(nn.Module):
    """U = T({h_[IMG] + e_[IMG]}) (Fu et al. 2024, equation 3): N [IMG] tokens become L token states of the denoiser's width.

    An encoder-decoder transformer without causal mask: the encoder reads the N sums of hidden state and word embedding, the
    decoder's input are L learnt queries. With the defaults it has the published shapes, 31,958,784 parameters; the modules
    are called as in the released weights.

    width: of the language model. hidden: of the head. queries: L. out: width of the denoiser's cross-attention.
    """

    def __init__(
        self,
        width: int = 4096,
        hidden: int = 512,
        queries: int = 77,
        out: int = 768,
        layers: int = 4,
        heads: int = 4,
        feedforward: int = 2048,
    ) -> None:
        super().__init__()
        self.config = {
            "width": width, "hidden": hidden, "queries": queries, "out": out, "layers": layers, "heads": heads,
            "feedforward": feedforward,
        }  # fmt: skip
        self.llm2hid = nn.Linear(width, hidden)
        self.query = nn.Parameter(torch.randn(1, queries, hidden))
        # The encoder is made here, as nn.Transformer would, because that one warns of a path that pre-norm layers cannot take.
        layer = nn.TransformerEncoderLayer(hidden, heads, feedforward, dropout=0.0, batch_first=True, norm_first=True)
        encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(hidden), enable_nested_tensor=False)
        self.mapper = nn.Transformer(
            hidden, heads, layers, layers, feedforward, 0.0, custom_encoder=encoder, batch_first=True, norm_first=True
        )
        self.hid2feat = nn.Linear(hidden, out)

    def forward(self, hidden_BND: Tensor, embeddings_ND: Tensor) -> Tensor:
        """Hidden states that predict the [IMG] tokens, and those tokens' word embeddings -> tokens_BLD.

        Zeros for the hidden states give the null condition, which depends on no picture and no words.
        """
        told_BNH = self.llm2hid(hidden_BND + embeddings_ND)
        return self.hid2feat(self.mapper(told_BNH, self.query.expand(len(hidden_BND), -1, -1)))
