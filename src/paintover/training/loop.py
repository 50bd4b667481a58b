"""A run: steps over batches, with checkpoints, averaged weights and a log, to be stopped and resumed at any moment."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from paintover.errors import PaintoverError
from paintover.training import checkpoint
from paintover.training.averaging import follow
from paintover.training.batches import Share
from paintover.training.log import Log
from paintover.training.recipe import Run, check_resumes, write
from paintover.training.stopping import anywhere, asked_to_stop, ignore_signals


def begin(recipe: Run, *, unused: bool = False) -> tuple[Accelerator, Share]:
    """Seeds torch, and says on what this process computes, and its share of the rows.

    unused: a process's share may ask nothing of a part. Raises PaintoverError where the processes cannot share a batch.
    """
    accelerator = Accelerator(
        mixed_precision="bf16" if recipe.bf16 else "no",
        cpu=not torch.cuda.is_available(),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)] if unused else [],
    )
    share = Share(accelerator.process_index, accelerator.num_processes)
    if recipe.batch % share.world:
        raise PaintoverError(f"batch is {recipe.batch}; expected a multiple of the {share.world} processes")
    torch.manual_seed(recipe.seed)
    return accelerator, share


class _OrWhatIsWrong(Dataset[Any]):
    """Batches, or the error that says why there is none: raised in a worker it would come with the worker's traceback."""

    def __init__(self, batches: Dataset[dict[str, Any]]) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> dict[str, Any] | PaintoverError:
        try:
            return self.batches[step]
        except PaintoverError as error:
            return PaintoverError(str(error))


def learn(
    out: Path,
    recipe: Run,
    accelerator: Accelerator,
    net: nn.Module,
    learner: nn.Module,
    optimiser: torch.optim.Optimizer,
    batches: Dataset[dict[str, Any]],
    losses: Callable[[nn.Module, dict[str, Any], int], tuple[Tensor, Mapping[str, Tensor]]],
    *,
    from_init: Callable[[], None] | None = None,
    frozen: str | None = None,
    workers: int = 1,
) -> Path:
    """Runs or resumes the recipe in `out`; returns the folder of the last checkpoint.

    net: what learns, under the names that checkpoints keep. learner: the module that is called, `net` itself or one around it.
    losses: of the learner (as several devices wrap it), the batch and the step: what is lowered, and its parts for the log.
    from_init: fills `net` where the run is new. frozen: a sum over what does not learn, which a run goes on with only if it is
    the same. Groups of the optimiser with a learning rate of their own, and not the recipe's, say so as `most`.
    Raises PaintoverError where the folder holds a run of another recipe, network, or of other frozen weights.
    """
    last = checkpoint.latest(out / "state")
    if last:
        check_resumes(out, recipe)
    elif from_init:
        from_init()
    ema = copy.deepcopy(net).requires_grad_(False)
    facts: dict[str, Any] = checkpoint.load(last, net, ema, optimiser) if last else {"step": 0}
    if frozen and facts.get("frozen", frozen) != frozen:
        raise PaintoverError(
            f"{out} was trained on other frozen weights than {recipe.init} has now; put that bundle back, or use another folder"
        )
    step: int = facts["step"]
    kept = {"recipe": recipe.model_dump(), **({"frozen": frozen} if frozen else {})}
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write(out, recipe)
    learner, stepping = accelerator.prepare(learner, optimiser)
    ema.to(accelerator.device)
    loader = DataLoader(
        Subset(_OrWhatIsWrong(batches), range(step, recipe.steps)),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=ignore_signals,
    )
    log = Log(out, step, recipe.batch) if accelerator.is_main_process else None
    net.train()
    with asked_to_stop() as asked:
        for batch in loader:
            if isinstance(batch, PaintoverError):
                raise batch
            loss, parts = losses(learner, batch, step)
            for group in stepping.param_groups:
                group["lr"] = group.get("most", recipe.lr) * recipe.share(step)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(net.parameters(), 1.0)
            stepping.step()
            stepping.zero_grad(set_to_none=True)
            step += 1
            follow(ema, net, recipe.ema, step)
            if log:
                log.add(step, loss, parts)
            stop = anywhere(bool(asked), accelerator)
            if (step % recipe.checkpoint_every == 0 or step == recipe.steps or stop) and accelerator.is_main_process:
                checkpoint.save(out / "state", step, net, ema, optimiser, kept)
            if stop:
                break
    accelerator.wait_for_everyone()
    found = checkpoint.latest(out / "state")
    assert found is not None
    return found


def moved(value: Any, device: torch.device) -> Any:
    """A batch with its tensors on this device, however deep they are in dicts."""
    if isinstance(value, dict):
        return {name: moved(v, device) for name, v in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value
