"""The refinement prior: what a language model means by a vector, as the vector of a picture of high quality."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from paintover.errors import ModelError

SINES = 512  # width of the score's embedding
_SEQUENCES = 32  # how many kinds of inputs could be marked; the release has as many marks


@dataclass(frozen=True, slots=True)
class PriorConfig:
    """width: E. hidden, layers, heads: of the transformer. scale: the length that embeddings are read with.

    What only InstructAny2Pix's release has: modalities, how many sources of an embedding are told apart by a first token (0:
    none are), and source, which of them a language model's answers are said to be; text: (tokens, width) of the states of a
    text encoder that are read too. query: whether a learnt token asks for the answer, which a linear layer reads off its state;
    without, as in the release, the last state is the answer.
    """

    width: int = 256
    hidden: int = 256
    layers: int = 4
    heads: int = 4
    scale: float = 20.0
    modalities: int = 0
    source: int = 0
    text: tuple[int, int] | None = None
    query: bool = True

    @classmethod
    def released(cls) -> PriorConfig:
        """The published sizes: GPT-2 medium, and the empty string as CLIP-H reads it (its beginning and its end)."""
        return cls(1024, 1024, 24, 16, scale=100.0, modalities=10, source=3, text=(2, 1024), query=False)


class Prior(nn.Module):
    """R(e, s): GPT-2's transformer over what stands for an embedding, and for an aesthetic score, each between two marks.

    Its last state is the embedding of a picture that means the same, and was judged so. methods.md D.1 and D.2.
    """

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        from transformers import GPT2Config, GPT2Model

        if not config.query and config.hidden != config.width:
            raise ModelError(f"a prior of width {config.hidden} needs a query to make embeddings of width {config.width}")
        self.config = config
        self.start = nn.Embedding(_SEQUENCES, config.hidden)
        self.end = nn.Embedding(_SEQUENCES, config.hidden)
        self.media = nn.Linear(config.width, config.hidden)
        self.score = nn.Linear(SINES, config.hidden)
        self.modality = nn.Embedding(config.modalities, config.hidden) if config.modalities else None
        self.text = None
        if config.text is not None:
            self.text = nn.Linear(config.text[1], config.hidden)
            self.register_buffer("text_LD", torch.zeros(config.text))
        self.query = nn.Parameter(torch.randn(config.hidden) * 0.02) if config.query else None
        self.out = nn.Linear(config.hidden, config.width) if config.query else nn.Identity()
        self.model = GPT2Model(
            GPT2Config(
                vocab_size=1,  # it reads no words
                n_positions=1024 if config.text else 16,
                n_embd=config.hidden,
                n_layer=config.layers,
                n_head=config.heads,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                use_cache=False,
                bos_token_id=None,
                eos_token_id=None,
            )
        )

    def refine(self, e_BE: Tensor, score_B: Tensor, source: int | None = None) -> Tensor:
        """y_BE for embeddings of any length and the scores that the answers shall have. source: None is the config's."""
        rows, config = len(e_BE), self.config
        score_BS = sines(score_B.to(e_BE.device)).to(e_BE.dtype)
        parts = [self._marked(1, self.media(functional.normalize(e_BE, dim=-1)[:, None] * config.scale))]
        if self.modality is not None:
            parts.insert(0, self.modality.weight[config.source if source is None else source].expand(rows, 1, -1))
        if self.text is not None:
            parts.append(self._marked(2, self.text(self.text_LD).expand(rows, -1, -1)))
        parts.append(self._marked(3, self.score(score_BS)[:, None]))
        if self.query is not None:
            parts.append(self.query.expand(rows, 1, -1))
        return self.out(self.model(inputs_embeds=torch.cat(parts, dim=1)).last_hidden_state[:, -1])

    def guided(self, e_BE: Tensor, high: float, low: float, guidance: float, source: int | None = None) -> Tensor:
        """y_low + guidance (y_high - y_low), of the same embeddings with a high and with a low score.

        (The release's other branch has no embedding, and for its score's embedding zeros and the constant 2.)
        """
        scores_2B = torch.tensor([high, low], device=e_BE.device)[:, None].expand(2, len(e_BE))
        y_high, y_low = self.refine(torch.cat([e_BE, e_BE]), scores_2B.flatten(), source).chunk(2)
        return y_low + guidance * (y_high - y_low)

    def _marked(self, kind: int, states_BLD: Tensor) -> Tensor:
        """Between the marks of its kind: the release's numbers."""
        ends = (mark.weight[kind].expand(len(states_BLD), 1, -1) for mark in (self.start, self.end))
        return torch.cat([next(ends), states_BLD, next(ends)], dim=1)


def sines(score_B: Tensor) -> Tensor:
    """Sinusoidal embedding of scores, (B, SINES): cosines of score * 10000^(-i / 256), i = 0, 1, ..., and then their sines."""
    rates = torch.exp(-torch.log(torch.tensor(10_000.0)) * torch.arange(SINES // 2) / (SINES // 2)).to(score_B.device)
    angles_BS = score_B.float()[:, None] * rates
    return torch.cat([angles_BS.cos(), angles_BS.sin()], dim=1)
