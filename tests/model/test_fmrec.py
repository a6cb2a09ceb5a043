from __future__ import annotations

from typing import Any

import pytest
import torch
from stand_in import Catalogue, batch, settings

from recbole_diffusion.diffusion.noise import FreshNoise
from recbole_diffusion.errors import SettingError
from recbole_diffusion.model import fmrec
from recbole_diffusion.model.fmrec import FMRec, history_cells


def changed(**changes: Any) -> dict[str, Any]:
    dropout = {f"{part}_dropout_prob": 0.0 for part in ("hidden", "attn", "embedding")}
    small = {"decoder_depth": 1, "decoder_sizes": [8, 12], "initializer_range": 0.5, "noise_scale": 0.3}
    return settings("FMRec", parents=("DiffuRec",), **{**dropout, **small, **changes})


def make(**changes: Any) -> FMRec:
    torch.manual_seed(0)
    return FMRec(changed(**changes), Catalogue(40))


def random_batch(rows: int = 12, longest: int = 9) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    length = torch.randint(1, longest + 1, (rows,), generator=generator)
    histories = [torch.randint(1, 40, (int(n),), generator=generator).tolist() for n in length]
    return batch(histories, torch.randint(1, 40, (rows,), generator=generator).tolist(), width=50)


@pytest.mark.parametrize("attention_mask", ["keys", "reference", "counted"])
@torch.no_grad()
def test_scores_do_not_depend_on_the_batch(attention_mask: str) -> None:
    model = make(attention_mask=attention_mask, inference_steps=5).eval()
    interaction = random_batch()
    together = model.full_sort_predict(interaction)
    alone = [model.full_sort_predict({key: value[[row]] for key, value in interaction.items()}) for row in range(12)]
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-5, rtol=0)


@pytest.mark.parametrize("steps", [1, 3, 40])
@torch.no_grad()
def test_the_last_state_is_the_mean_of_the_predictions(steps: int) -> None:
    model = make(inference_steps=steps).eval()
    history = model.history(random_batch())
    chain = model.sample(history, model.inference_noise(history))
    predictions = torch.stack([step.x0_hat for step in chain.steps])
    torch.testing.assert_close(chain.x_0, predictions.mean(dim=0), atol=1e-5, rtol=0)
    # λ and the time make them differ.
    assert steps == 1 or predictions.std(dim=0).max() > 1e-3


def test_switched_off_neither_noise_nor_time_enters(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(diffusion=False, inference_steps=30, decoder_weight=0.0)
    monkeypatch.setattr(model.step_mlp, "forward", None)
    interaction = random_batch()
    torch.manual_seed(0)
    first = model.calculate_loss(interaction)
    torch.manual_seed(1)
    assert torch.equal(first, model.calculate_loss(interaction))
    model.eval()
    with torch.no_grad():
        history = model.history(interaction)
        chains = [model.sample(history, FreshNoise("cpu")) for _ in range(2)]
    assert len(chains[0].steps) == 1 and torch.equal(chains[0].x_0, chains[1].x_0)
    # As with λ = 0, where all predictions are one and so is their mean.
    silent = make(noise_scale=0.0, inference_steps=4).eval()
    with torch.no_grad():
        expected = silent.full_sort_predict(interaction)
        torch.testing.assert_close(model.full_sort_predict(interaction), expected, atol=1e-5, rtol=0)


def plain_cells(items: torch.Tensor, n_items: int, ratio: float, uniform: torch.Tensor) -> tuple[set[int], set[int]]:
    table = torch.zeros(len(items), n_items, dtype=torch.bool)
    table.scatter_(1, items, True)
    table[:, 0] = False
    zeros = (~table).flatten().nonzero()[:, 0]
    number = int(min(len(zeros), ratio * int(table.sum())))
    chosen = zeros[(uniform[:number].double() * len(zeros)).long()]
    return set(table.flatten().nonzero()[:, 0].tolist()), set(chosen.tolist())


@pytest.mark.parametrize("longest", [1, 2, 9])
@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0, 3.0])
def test_history_cells_are_those_of_the_table(longest: int, ratio: float) -> None:
    """Against the table itself; items repeat, and uniform numbers meet both ends."""
    torch.manual_seed(longest)
    for n_items in (4, 12, 40):
        items = torch.randint(0, n_items, (7, longest))
        uniform = torch.rand(max(1, int(ratio)) * items.numel())
        uniform[0], uniform[-1] = 0.0, 1 - 2.0**-24
        cells = history_cells(items, n_items, ratio, uniform)
        ones, zeros = cells.ones[cells.ones_valid].tolist(), cells.zeros[cells.zeros_valid].tolist()
        assert len(ones) == len(set(ones)) and len(zeros) == len(set(zeros))
        assert (set(ones), set(zeros)) == plain_cells(items, n_items, ratio, uniform)


def test_without_its_weight_there_is_no_history_decoder() -> None:
    model = make(decoder_weight=0.0)
    assert not any(name.startswith("history_decoder") for name, _ in model.named_parameters())
    assert model.calculate_loss(random_batch()).isfinite()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"step_sampler": "lossaware"}, "step_sampler must be one of mode, uniform, logit_normal, cosmap"),
        ({"decoder_depth": 2}, "decoder_depth must be below n_layers=2, got 2"),
        ({"time_eps": 0.0}, "time_eps must be above 0 and below 1, got 0.0"),
        ({"decoder_sizes": [8, 0]}, "decoder_sizes must be positive numbers, got [8, 0]"),
        ({"prediction_type": "eps"}, "prediction_type must be x0 in a flow, got 'eps'"),
        ({"consistency_weight": 0.5}, "consistency_weight must be 0 in a flow, got 0.5"),
        ({"mode_scale": 2.0}, "mode_scale must be from -1 to"),
    ],
)
def test_impossible_settings_are_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingError) as error:
        FMRec.check_settings(changed(**changes))
    assert str(error.value).startswith(named)


def test_few_cells_are_rebuilt_as_in_the_whole_table(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    hidden, cells = torch.randn(6, 12, requires_grad=True), torch.randint(0, 6 * 40, (30,))
    last = model.history_decoder[-1]
    found = []
    for cheap in (0, 10**6):
        monkeypatch.setattr(fmrec, "CHEAP_CELLS", cheap)
        values = model.rebuilt(hidden, cells)
        found.append([values, *torch.autograd.grad(values.square().sum(), [hidden, last.weight, last.bias])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
