"""The aesthetic predictor: the released names and shapes, and what its layers come to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from paintover import cli
from paintover.errors import ModelError
from paintover.models.aesthetic import Aesthetic, AestheticHead, import_aesthetic, load_aesthetic

SHAPES = {
    "layers.0.weight": (1024, 768),
    "layers.0.bias": (1024,),
    "layers.2.weight": (128, 1024),
    "layers.2.bias": (128,),
    "layers.4.weight": (64, 128),
    "layers.4.bias": (64,),
    "layers.6.weight": (16, 64),
    "layers.6.bias": (16,),
    "layers.7.weight": (1, 16),
    "layers.7.bias": (1,),
}


def released():
    torch.manual_seed(2)
    return {name: 0.2 * torch.randn(shape) for name, shape in SHAPES.items()}


class Seer:
    """Says the mean colours, in the first of so many numbers."""

    def __init__(self, width):
        self.width = width

    def see(self, pictures):
        rows = torch.zeros(len(pictures), self.width)
        rows[:, :3] = torch.tensor(np.stack([picture.mean((0, 1)) for picture in pictures]))
        return torch.nn.functional.normalize(rows, dim=-1)

    def read(self, texts):
        raise NotImplementedError


def pictures():
    return [np.random.default_rng(i).integers(1, 256, (8, 9, 3), dtype=np.uint8) // (i + 1) for i in range(3)]


def test_the_head_has_the_released_names_and_is_linear(tmp_path):
    state = released()
    save_file(state, tmp_path / "head.safetensors")
    head = load_aesthetic(tmp_path / "head.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()} == SHAPES
    assert sum(parameter.numel() for parameter in head.parameters()) == 927_969
    x_BE = torch.randn(4, 768)
    y = x_BE
    for place in (0, 2, 4, 6, 7):
        y = y @ state[f"layers.{place}.weight"].T + state[f"layers.{place}.bias"]
    torch.testing.assert_close(head(x_BE), y[:, 0], atol=1e-4, rtol=1e-4)


def test_pictures_are_scored_by_what_clip_sees(tmp_path):
    head = AestheticHead()
    head.load_state_dict(released())
    aesthetic = Aesthetic(head, Seer(768))
    scores = aesthetic.scores(pictures())
    assert scores == pytest.approx(head(Seer(768).see(pictures())).tolist())
    assert len({*scores}) == 3
    assert aesthetic.scores([]) == []
    with pytest.raises(ModelError, match="768 numbers of CLIP ViT-L/14, this scorer says 512"):
        Aesthetic(head, Seer(512)).scores(pictures())
    head.layers[7].bias.fill_(torch.nan)
    with pytest.raises(ModelError, match="not finite"):
        aesthetic.scores(pictures())


def test_the_released_pickle_is_converted_and_never_loaded(tmp_path, monkeypatch, capsys):
    torch.save(released(), tmp_path / "sac+logos+ava1-l14-linearMSE.pth")
    file, out = tmp_path / "sac+logos+ava1-l14-linearMSE.pth", tmp_path / "aesthetic.safetensors"
    with pytest.raises(ModelError, match="pickles can run code"):
        load_aesthetic(file)
    with pytest.raises(SystemExit) as ended:
        cli.main(["models", "import", "aesthetic", str(file), "-o", str(out)])
    assert not ended.value.code
    assert capsys.readouterr().out.strip() == str(out)
    for name, tensor in released().items():
        assert torch.equal(load_aesthetic(out).state_dict()[name], tensor)
    with pytest.raises(ModelError, match="exists"):
        import_aesthetic(file, out)
    import_aesthetic(file, out, force=True)


def test_what_is_something_else_is_said_in_one_line(tmp_path):
    lines = []
    for state in ({"x": torch.zeros(1)}, released() | {"layers.7.bias": torch.zeros(2)}):
        save_file(state, tmp_path / "head.safetensors")
        with pytest.raises(ModelError, match="holds no aesthetic predictor") as error:
            load_aesthetic(tmp_path / "head.safetensors")
        lines.append(str(error.value))
        with pytest.raises(ModelError, match="does not fit") as error:
            import_aesthetic(tmp_path / "head.safetensors", tmp_path / "out.safetensors")
        lines.append(str(error.value))
    (tmp_path / "head.safetensors").write_bytes(b"nonsense")
    for file, line in (("head.safetensors", "cannot be read"), ("none.safetensors", "there is no")):
        with pytest.raises(ModelError, match=line) as error:
            load_aesthetic(tmp_path / file)
        lines.append(str(error.value))
    assert not any("\n" in line for line in lines)
    assert not (tmp_path / "out.safetensors").exists()
