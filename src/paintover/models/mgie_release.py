"""MGIE's release, mllm.pt and unet.pt: what it replaces in LLaVA and in InstructPix2Pix."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from paintover.errors import ModelError
from paintover.models.edit_head import EditHead
from paintover.models.files import read_json
from paintover.models.mgie_tokens import arranged
from paintover.models.shards import Plan, Shards, fitting

TOKENS = 8  # [IMG] tokens of the release: the last rows of its embeddings
_HEADS = 4  # of the edit head's attentions: its tensors do not tell
_ROWS = ("embed_tokens.weight", "lm_head.weight")
_HEAD = "edit_head."
_SIZES = ("llm2hid.weight", "query", "hid2feat.weight", "mapper.encoder.layers.0.linear1.weight")


class Release:
    """The folder of mllm.pt and unet.pt, opened as tensors alone. Raises ModelError that names what is missing or too much.

    rows, width: of its embeddings. head: the edit head of the sizes that its tensors have, on the meta device.
    """

    def __init__(self, folder: Path) -> None:
        self._mllm, self._unet = Shards(folder / "mllm.pt"), Shards(folder / "unet.pt")
        # Where the embeddings lie in LLaVA (model.embed_tokens.weight) is of no interest here.
        self._called = {name.removeprefix("model.") if "embed_tokens" in name else name: name for name in self._mllm}
        shapes = {name: self._mllm.shapes[called] for name, called in self._called.items()}
        head = {name.removeprefix(_HEAD): shape for name, shape in shapes.items() if name.startswith(_HEAD)}
        needed = [name for name in _ROWS if name not in shapes] + [_HEAD + name for name in _SIZES if name not in head]
        if needed:
            raise ModelError(
                f"mllm.pt has no {', '.join(needed)}; expected MGIE's release, or what its extract_ckpt.ipynb wrote"
            )
        unknown = [name for name in shapes if name not in (*_ROWS, "emb") and not name.startswith(_HEAD)]
        if unknown:
            raise ModelError(f"mllm.pt has {', '.join(unknown)}; expected embed_tokens, lm_head, edit_head and emb alone")
        self.rows, self.width = shapes["embed_tokens.weight"]
        expected = {"lm_head.weight": (self.rows, self.width), "emb": (1, TOKENS, self.width)}
        fitting({name: shapes[name] for name in expected if name in shapes}, _of(expected, shapes), "mllm.pt")
        if self.rows <= TOKENS:
            raise ModelError(f"mllm.pt has embeddings of {self.rows} tokens; expected LLaVA's and {TOKENS} more")
        (hidden, width), (_, queries, _), (out, _), (feedforward, _) = (head[name] for name in _SIZES)
        layers = len({name.split(".")[3] for name in head if name.startswith("mapper.encoder.layers.")})
        with torch.device("meta"):
            self.head = EditHead(width, hidden, queries, out, layers, _HEADS, feedforward)
        fitting(head, {name: tuple(tensor.shape) for name, tensor in self.head.state_dict().items()}, "edit_head in mllm.pt")

    def embeddings(self, order: Sequence[int | None]) -> Tensor:
        """Its word embeddings in this order: those of the [IMG] tokens are `emb`, or the last rows where it was not kept."""
        rows_ND = self._mllm[self._called["embed_tokens.weight"]]
        if "emb" in self._called:
            rows_ND = rows_ND.clone()
            rows_ND[-TOKENS:] = self._mllm["emb"][0].to(rows_ND.dtype)
        return arranged(rows_ND, order)

    def language_head(self, order: Sequence[int | None]) -> Tensor:
        return arranged(self._mllm["lm_head.weight"], order)

    def differs(self) -> bool:
        """Whether `emb` is not what its embeddings end with."""
        if "emb" not in self._called:
            return False
        last_ND = self._mllm[self._called["embed_tokens.weight"]][-TOKENS:]
        return not torch.allclose(self._mllm["emb"][0].float(), last_ND.float(), atol=1e-3)

    def edit_head(self) -> Plan:
        return {
            name: (tuple(tensor.shape), partial(self._mllm.__getitem__, _HEAD + name))
            for name, tensor in self.head.state_dict().items()
        }

    def unet(self, base: Path) -> Plan:
        """The UNet's tensors, which must be those that `base` describes. Raises ModelError."""
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        with torch.device("meta"):
            state = UNet2DConditionModel.from_config(read_json(base, "unet/config.json")).state_dict()
        expected = {name: tuple(tensor.shape) for name, tensor in state.items()}
        fitting(self._unet.shapes, expected, f"unet.pt, beside the UNet of {base},")
        return {name: (shape, partial(self._unet.__getitem__, name)) for name, shape in expected.items()}


def _of(expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in expected.items() if name in found}
