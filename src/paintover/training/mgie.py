"""MGIE's joint training: the language model learns to say what is meant, and with the edit head to guide the denoiser.

Algorithm 1 of Fu et al. 2024: L_all = L_ins + 0.5 L_edit. L_ins is the cross-entropy of the expressive instruction and its
[IMG] tokens, L_edit the denoiser's error when it is told U = T(h + e). Of the language model only the word embeddings and the
LM head learn, of the rest the edit head and the whole denoiser; vision tower, projector and blocks stay as they are.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Subset

from paintover.conditions import mgie as conditions
from paintover.errors import PaintoverError
from paintover.models.bundle import Bundle
from paintover.models.denoiser import Denoiser, clean
from paintover.models.mllm import Asked, Mllm
from paintover.training import checkpoint
from paintover.training.averaging import follow
from paintover.training.denoiser import noise_seed
from paintover.training.log import Log
from paintover.training.mgie_batches import MgieBatches
from paintover.training.mgie_pairs import PairBatches
from paintover.training.mgie_recipe import MgieRecipe
from paintover.training.recipe import check_resumes, write
from paintover.training.stopping import anywhere, asked_to_stop, ignore_signals

DROP = 0.05  # of each of: the words, words and picture, the picture


class Learner(nn.Module):
    """The networks, as one module whose parameters are those that learn, under the names that a checkpoint keeps.

    unet, embeddings, lm_head, head, and projector where the recipe says so. They are float32, and so is all else but for
    mixed precision, which leaves what does not learn as it was loaded.
    """

    def __init__(self, bundle: Bundle, mllm: Mllm, recipe: MgieRecipe) -> None:
        super().__init__()
        assert isinstance(bundle.denoiser, Denoiser)
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

    def groups(self) -> list[dict[str, Any]]:
        """For the optimiser: the denoiser at its learning rate, all else at the language model's."""
        own = [p for name, p in self.named_parameters() if not name.startswith("unet.")]
        groups = ((own, self.recipe.lr), (list(self.unet.parameters()), self.recipe.denoiser_lr))
        return [{"params": parameters, "lr": lr, "most": lr} for parameters, lr in groups]

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
        edit_loss = _edit_loss(self.denoiser, x0_BCHW, image_BCHW, weight_BCHW, drawn, tokens_BLD, pooled_BD)
        return {"words": words_loss / answers.clamp(min=1), "edit": edit_loss}

    def _answered(self, asked: Asked, pixels_SCHW: Tensor | None) -> tuple[Tensor, Tensor]:
        """The hidden states_BLD of questions and answers, and the summed cross-entropy of the answers."""
        with torch.no_grad() if not self.recipe.projector else torch.enable_grad():
            looked = None if pixels_SCHW is None else self.mllm.look(pixels_SCHW)
        states_BLD = self.mllm.hidden(asked, looked)
        labels_BL = asked.labels_BL[:, 1:]
        said = labels_BL != -100
        logits_KV = self.lm_head(states_BLD[:, :-1][said]).float()
        return states_BLD, functional.cross_entropy(logits_KV, labels_BL[said], reduction="sum")


def answered(batch: dict[str, Any]) -> Tensor:
    """How many tokens of a batch's answers are predicted."""
    if batch["asked"] is None:
        return torch.zeros(())
    return (batch["asked"]["labels_BL"][:, 1:] != -100).sum().float()


def _read(tokens_KLD: Tensor, pooled_KD: Tensor | None, no_words_B: Tensor) -> tuple[Tensor, Tensor | None]:
    """The text encoder's states; those of no words, which come last, where words are dropped."""
    without_K = no_words_B[: len(tokens_KLD) - 1]
    tokens = torch.where(without_K.view(-1, 1, 1), tokens_KLD[-1:], tokens_KLD[:-1])
    return tokens, None if pooled_KD is None else torch.where(without_K.view(-1, 1), pooled_KD[-1:], pooled_KD[:-1])


def dropped(chance_B: Tensor) -> tuple[Tensor, Tensor]:
    """Where words and where pictures are left out: 5 % words, 5 % both, 5 % pictures (InstructPix2Pix, section 3.2.1)."""
    return chance_B < 2 * DROP, (chance_B >= DROP) & (chance_B < 3 * DROP)


def _edit_loss(
    denoiser: Denoiser,
    x0_BCHW: Tensor,
    image_BCHW: Tensor,
    weight_BCHW: Tensor,
    drawn: dict[str, Tensor],
    tokens_BLD: Tensor,
    pooled_BD: Tensor | None,
) -> Tensor:
    """The weighed squared error of what the network predicts: the noise (L_edit), v, or the picture."""
    t_B, noise_BCHW = drawn["t_B"], drawn["noise_BCHW"]
    a_B111 = denoiser.alphas_cumprod[t_B].view(-1, 1, 1, 1)
    x_BCHW = a_B111.sqrt() * x0_BCHW + (1 - a_B111).sqrt() * noise_BCHW
    output_BDHW = denoiser.output(x_BCHW, t_B, tokens_BLD, pooled_BD, image_BCHW)
    if denoiser.prediction == "epsilon":
        error_BCHW = output_BDHW[:, : denoiser.channels] - noise_BCHW
    elif denoiser.prediction == "v_prediction":
        error_BCHW = output_BDHW[:, : denoiser.channels] - (a_B111.sqrt() * noise_BCHW - (1 - a_B111).sqrt() * x0_BCHW)
    elif denoiser.prediction == "sample":
        error_BCHW = output_BDHW[:, : denoiser.channels] - x0_BCHW
    else:
        error_BCHW = clean(output_BDHW, denoiser.codec_scale * image_BCHW) - x0_BCHW
    return (weight_BCHW * error_BCHW.square()).mean()


def train(out: Path, recipe: MgieRecipe, bundle: Bundle, batches: MgieBatches | PairBatches, *, workers: int = 1) -> Path:
    """Runs or resumes the recipe in `out`; returns the folder of the last checkpoint. As `training.denoiser.train` does.

    bundle: where it begins, on this process's device, with a language model. batches: item `step` is this process's share of
    that step's batch, as `training.mgie_batches.together` makes it; its `mllm`, which is the bundle's, learns. Raises
    PaintoverError where the folder holds a run of another recipe, or the bundle is no model of this kind.
    """
    bundle.require("instruct", "mgie", "unet")
    if bundle.description.sigma_data is not None:
        raise PaintoverError(f"{bundle.name} corrects its pictures by sigma_data, which this training does not; name another")
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # a process's share may ask nothing
    accelerator = Accelerator(
        mixed_precision="bf16" if recipe.bf16 else "no", cpu=not torch.cuda.is_available(), kwargs_handlers=[unused]
    )
    if recipe.batch % accelerator.num_processes:
        raise PaintoverError(f"batch is {recipe.batch}; expected a multiple of the {accelerator.num_processes} processes")
    torch.manual_seed(recipe.seed)
    mllm = batches.mllm
    if mllm.device.type == "cpu":
        mllm.model.set_attn_implementation("eager")  # its backward is faster on a CPU than that of the fused kernel
    made, read = mllm.head.config["queries"], bundle.text.length
    if made != read and (recipe.rows()["captions"] or recipe.rows()["instruct"]):
        raise PaintoverError(f"{bundle.name} says {made} states of an edit, {read} of a text: set captions and instruct to 0")
    learner = Learner(bundle, mllm, recipe)
    if mllm.device.type == "cpu":
        from diffusers.models.attention_processor import AttnProcessor

        learner.unet.set_attn_processor(AttnProcessor())  # likewise
    ema = copy.deepcopy(nn.ModuleDict(dict(learner.named_children()))).requires_grad_(False)
    optimiser = torch.optim.AdamW(learner.groups(), betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    last = checkpoint.latest(out / "state")
    if last:
        check_resumes(out, recipe)
    step = checkpoint.load(last, learner, ema, optimiser)["step"] if last else 0
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write(out, recipe)
    wrapped, optimiser = accelerator.prepare(learner, optimiser)
    ema.to(accelerator.device)
    loader = DataLoader(
        Subset(batches, range(step, recipe.steps)),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=ignore_signals,
    )
    log = Log(out, step, recipe.batch) if accelerator.is_main_process else None
    learner.train()
    with asked_to_stop() as asked:
        for batch in loader:
            batch = _to(batch, accelerator.device)
            latents = _latents(bundle, batch)
            drawn = _drawn(recipe, step, batch, latents[0], accelerator)
            answers = accelerator.reduce(answered(batch).to(accelerator.device), "mean")
            with accelerator.autocast():
                losses = wrapped(batch, *latents, drawn, answers)
            loss = recipe.instruction_loss * losses["words"] + recipe.edit_loss * losses["edit"]
            for group in optimiser.param_groups:
                group["lr"] = group["most"] * recipe.rate(step)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(learner.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            step += 1
            follow(ema, nn.ModuleDict(dict(learner.named_children())), recipe.ema, step)
            if log:
                log.add(step, loss, losses)
            stop = anywhere(bool(asked), accelerator)
            if (step % recipe.checkpoint_every == 0 or step == recipe.steps or stop) and accelerator.is_main_process:
                checkpoint.save(out / "state", step, learner, ema, optimiser.optimizer, {"recipe": recipe.model_dump()})
            if stop:
                break
    accelerator.wait_for_everyone()
    found = checkpoint.latest(out / "state")
    assert found is not None
    return found


@torch.no_grad()
def _latents(bundle: Bundle, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """The target's scaled latents, the source's unscaled ones (zeros where there is no source), and the error's weight."""
    x0_BCHW = bundle.codec.encode(batch["target_BCHW"])
    image_BCHW = bundle.codec.encode(batch["source_BCHW"]) / bundle.codec.scale * batch["told_B"].view(-1, 1, 1, 1)
    weight_B1HW = batch["weight_B1HW"]
    if bundle.in_pixels:  # as the pixels are put into channels: three of each, for R, G and B
        weight_BCHW = functional.pixel_unshuffle(weight_B1HW, bundle.codec.factor).repeat(1, 3, 1, 1)
    else:
        weight_BCHW = functional.avg_pool2d(weight_B1HW, bundle.codec.factor)
    return x0_BCHW, image_BCHW, weight_BCHW


def _drawn(
    recipe: MgieRecipe, step: int, batch: dict[str, Any], x0_BCHW: Tensor, accelerator: Accelerator
) -> dict[str, Tensor]:
    """Timesteps, noise and what is dropped: drawn for the whole step, of which this process takes its rows' share."""
    generator = torch.Generator().manual_seed(noise_seed(recipe.seed, step))
    rows, mine = recipe.batch, slice(accelerator.process_index, recipe.batch, accelerator.num_processes)
    level_B, chance_B = torch.rand(rows, generator=generator)[mine], torch.rand(rows, generator=generator)[mine]
    first_B, last_B = batch["levels_B2"].cpu().unbind(1)
    t_B = ((first_B + level_B * (last_B - first_B)) * 1000).long().clamp(max=999)
    noise_BCHW = torch.randn((rows, *x0_BCHW.shape[1:]), generator=generator)[mine]
    return {name: v.to(x0_BCHW.device) for name, v in {"t_B": t_B, "noise_BCHW": noise_BCHW, "chance_B": chance_B}.items()}


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {name: _to(v, device) for name, v in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value
