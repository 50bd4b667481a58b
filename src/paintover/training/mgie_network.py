"""What MGIE's joint training lowers: the language model's networks and the denoiser as one module, and their losses."""

from __future__ import annotations

import copy
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn

from paintover.conditions import mgie as conditions
from paintover.errors import PaintoverError
from paintover.models.bundle import Bundle
from paintover.models.denoiser import Denoiser, clean
from paintover.models.mllm import Asked, Mllm
from paintover.training.answers import cross_entropy, predicted
from paintover.training.mgie_recipe import MgieRecipe

DROP = 0.05  # of each of: the words, words and picture, the picture


class Learner(nn.Module):
    """The networks, as one module whose parameters are those that learn, under the names that a checkpoint keeps.

    unet, embeddings, lm_head, head, and projector where the recipe says so. They are float32, and so is all else but for
    mixed precision, which leaves what does not learn as it was loaded.
    """

    def __init__(self, bundle: Bundle, mllm: Mllm, recipe: MgieRecipe) -> None:
        super().__init__()
        if not isinstance(bundle.denoiser, Denoiser):
            raise PaintoverError(f"MGIE guides a diffusion model with a UNet; {bundle.name} is none")
        self.denoiser = bundle.denoiser.around(copy.deepcopy(bundle.denoiser.unet).float())
        self.mllm, self.recipe = mllm, recipe
        llava = mllm.model
        self.unet = self.denoiser.unet
        self.embeddings, self.lm_head, self.head = llava.get_input_embeddings(), llava.lm_head, mllm.head
        if recipe.projector:
            self.projector = llava.model.multi_modal_projector
        for module in (*mllm.modules, self.unet):
            module.requires_grad_(False)
        if not recipe.bf16:
            llava.float()
        for module in self.children():
            module.float().requires_grad_(True)
        if recipe.checkpointing:
            blocks: Any = llava.model.language_model
            blocks.gradient_checkpointing_enable({"use_reentrant": False})
            blocks.train()  # else it is not done; LLaMA drops nothing
            self.unet.enable_gradient_checkpointing()  # likewise not reentrant

    def groups(self) -> list[dict[str, Any]]:
        """For the optimiser: the denoiser at its learning rate, all else at the language model's."""
        own = [p for name, p in self.named_parameters() if not name.startswith("unet.")]
        groups = ((own, self.recipe.lr), (list(self.unet.parameters()), self.recipe.denoiser_lr))
        return [{"params": parameters, "lr": lr, "most": lr} for parameters, lr in groups]

    @property
    def net(self) -> nn.ModuleDict:
        """What learns, alone."""
        return nn.ModuleDict(dict(self.named_children()))

    def forward(
        self,
        batch: dict[str, Any],
        x0_BCHW: Tensor,
        image_BCHW: Tensor,
        weight_BCHW: Tensor,
        drawn: dict[str, Tensor],
        answers: Tensor,
    ) -> dict[str, Tensor]:
        """The losses "words" (L_ins) and "edit" (L_edit).

        answers: how many tokens are answered (`answered`); where several processes share a batch, the mean of theirs.
        x0_BCHW: the target's scaled latents. image_BCHW: the source's unscaled ones. weight_BCHW: of the error. drawn: t_B,
        noise_BCHW, and chance_B, uniform in 0..1, by which words and pictures are dropped.
        """
        device = x0_BCHW.device
        words_loss, parts = torch.zeros((), device=device), []
        no_words_B, no_picture_B = dropped(drawn["chance_B"])
        if batch["tokens_KLD"] is not None:
            parts.append(_read(batch["tokens_KLD"], batch["pooled_KD"], no_words_B))
        if batch["asked"] is not None:
            asked = Asked(**batch["asked"])
            states_BLD, words_loss = self._answered(asked, batch["pixels_SCHW"])
            hidden_BND = self.mllm.at_images(states_BLD, asked).float()
            without_B = no_words_B[-len(hidden_BND) :]
            parts.append(conditions.told(self.mllm, self.denoiser, hidden_BND * ~without_B.view(-1, 1, 1)))
        tokens_BLD = torch.cat([tokens for tokens, _ in parts])
        pooled_BD = None if parts[0][1] is None else torch.cat([pooled for _, pooled in parts if pooled is not None])
        image_BCHW = image_BCHW * ~no_picture_B.view(-1, 1, 1, 1)
        error = edit_loss(self.denoiser, x0_BCHW, image_BCHW, weight_BCHW, drawn, tokens_BLD, pooled_BD)
        return {"words": words_loss / answers.clamp(min=1), "edit": error}

    def _answered(self, asked: Asked, pixels_SCHW: Tensor | None) -> tuple[Tensor, Tensor]:
        """The hidden states_BLD of questions and answers, and the summed cross-entropy of the answers."""
        with torch.no_grad() if not self.recipe.projector else torch.enable_grad():
            looked = None if pixels_SCHW is None else self.mllm.look(pixels_SCHW)
        states_BLD = self.mllm.hidden(asked, looked)
        return states_BLD, cross_entropy(self.lm_head, states_BLD, asked.labels_BL)


def frozen(mllm: Mllm, recipe: MgieRecipe) -> str:
    """sha256 (hex) over what a run does not teach of a language model, in half precision, as bundles keep it."""
    learning = ["model.language_model.embed_tokens.", "lm_head."]
    if recipe.projector:
        learning.append("model.multi_modal_projector.")
    found = sha256()
    for name, tensor in sorted(mllm.model.state_dict().items()):
        if not name.startswith(tuple(learning)):
            found.update(f"{name} {tuple(tensor.shape)}".encode())
            found.update(tensor.detach().half().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def answered(batch: dict[str, Any]) -> Tensor:
    """How many tokens of a batch's answers are predicted."""
    if batch["asked"] is None:
        return torch.zeros(())
    return predicted(batch["asked"]["labels_BL"])[0].sum().float()


def _read(tokens_KLD: Tensor, pooled_KD: Tensor | None, no_words_B: Tensor) -> tuple[Tensor, Tensor | None]:
    """The text encoder's states; those of no words, which come last, where words are dropped."""
    without_K = no_words_B[: len(tokens_KLD) - 1]
    tokens = torch.where(without_K.view(-1, 1, 1), tokens_KLD[-1:], tokens_KLD[:-1])
    return tokens, None if pooled_KD is None else torch.where(without_K.view(-1, 1), pooled_KD[-1:], pooled_KD[:-1])


def dropped(chance_B: Tensor) -> tuple[Tensor, Tensor]:
    """Where words and where pictures are left out: 5 % words, 5 % both, 5 % pictures (InstructPix2Pix, section 3.2.1)."""
    return chance_B < 2 * DROP, (chance_B >= DROP) & (chance_B < 3 * DROP)


def edit_loss(
    denoiser: Denoiser,
    x0_BCHW: Tensor,
    image_BCHW: Tensor,
    weight_BCHW: Tensor,
    drawn: dict[str, Tensor],
    tokens_BLD: Tensor,
    pooled_BD: Tensor | None,
    media_BSE: Tensor | None = None,
) -> Tensor:
    """The weighed squared error of what the network predicts: the noise (L_edit), v, or the picture."""
    t_B, noise_BCHW = drawn["t_B"], drawn["noise_BCHW"]
    x_BCHW = denoiser.noised(x0_BCHW, noise_BCHW, t_B)
    said_BDHW = denoiser.output(x_BCHW, t_B, tokens_BLD, pooled_BD, image_BCHW, media_BSE)
    if denoiser.prediction in ("change", "blend"):
        said_BDHW = clean(said_BDHW, denoiser.codec_scale * image_BCHW)
    error_BCHW = said_BDHW[:, : denoiser.channels] - denoiser.target(x0_BCHW, noise_BCHW, t_B)
    return (weight_BCHW * error_BCHW.square()).mean()
