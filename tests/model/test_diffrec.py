from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from stand_in import Catalogue, batch, settings

from recbole_diffusion.diffusion.noise import FreshNoise, Noise
from recbole_diffusion.model.diffrec import DiffRec

HISTORIES = [[3, 1, 4, 1, 5], [9, 2], [6], [5, 3, 5]]
TARGETS = [8, 7, 9, 3]


def model(**changes: Any) -> DiffRec:
    torch.manual_seed(0)
    dropout = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
    return DiffRec(settings("DiffRec", **{**dropout, "initializer_range": 0.5, **changes}), Catalogue(11))


class SameNoise(Noise):
    """One number throughout, at given timesteps; notes the names that are asked for."""

    def __init__(self, value: float = 0.5, timestep: Any = None) -> None:
        self.value, self.timestep = value, timestep
        self.names: list[str] = []

    def normal(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        self.names.append(name)
        return torch.full(shape, self.value)

    def choice(self, name: str, probabilities: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        return self.timestep if self.timestep is not None else torch.zeros(shape, dtype=torch.int64)


@pytest.mark.parametrize(("positions", "noised"), [("last", False), ("all", True)])
def test_diffusion_noise_stands_where_the_setting_says(positions: str, noised: bool) -> None:
    diffrec = model(noise_positions=positions, embedding_noise=0.0)
    seen: list[torch.Tensor] = []
    diffrec.input_norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    timestep = torch.tensor([0, 5, 10, 15])
    for value in (0.0, 1.0):
        diffrec.calculate_loss(batch(HISTORIES, TARGETS), SameNoise(value, timestep))
    real = torch.arange(6) <= torch.tensor([len(h) for h in HISTORIES])[:, None]
    slot = torch.arange(6) == torch.tensor([len(h) for h in HISTORIES])[:, None]
    # Between noise 0 and 1 a noised position moves by sqrt(1 - abar), in every dimension.
    moved = (seen[1] - seen[0]).detach()
    expected = (1 - diffrec.process.abar[timestep]).sqrt().float()[:, None, None].expand_as(moved)
    torch.testing.assert_close(moved[slot], expected[slot], atol=1e-5, rtol=0)
    history = real & ~slot
    expected = expected[history] if noised else torch.zeros_like(expected[history])
    torch.testing.assert_close(moved[history], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("histories", [HISTORIES, [[3, 1, 4], [1, 5, 9]]])
def test_positions_are_counted_from_the_newest_item(histories: list[list[int]]) -> None:
    diffrec = model(diffusion=False).eval()
    torch.nn.init.zeros_(diffrec.item_embedding.weight)
    seen: list[torch.Tensor] = []
    diffrec.input_norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    diffrec.full_sort_predict(batch(histories, TARGETS[: len(histories)]))
    for row, history in zip(seen[0], histories, strict=True):
        position = list(range(len(history) + 1))[::-1]
        assert torch.equal(row[: len(position)], diffrec.position_embedding.weight[position])


def test_step_is_encoded_at_every_position_at_its_scale() -> None:
    seen: list[torch.Tensor] = []
    timestep = torch.tensor([0, 5, 10, 15])
    for scale in (0.0, 0.5):
        diffrec = model(step_encoding_scale=scale)
        diffrec.input_norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
        diffrec.calculate_loss(batch(HISTORIES, TARGETS), SameNoise(timestep=timestep))
    # The paper's n is one more; its encoding has sine and cosine in turn, of 10000^(-2j/d).
    angle = (timestep[:, None] + 1) / 10000 ** (torch.arange(0, 16, 2) / 16)
    encoding = torch.stack([angle.sin(), angle.cos()], dim=-1).view(4, 1, 16)
    torch.testing.assert_close(seen[1] - seen[0], 0.5 * encoding.expand(4, 6, 16), atol=1e-5, rtol=0)


def test_embedding_noise_reaches_every_position_in_training_only() -> None:
    noise = SameNoise()
    diffrec = model(embedding_noise=0.04)
    diffrec.calculate_loss(batch(HISTORIES, TARGETS), noise)
    assert {"history", "target"} <= set(noise.names)
    items = torch.tensor([[1, 2]])
    shifted = diffrec.to_continuous(items, "history", SameNoise(1.0)) - diffrec.item_embedding(items)
    torch.testing.assert_close(shifted, torch.full_like(shifted, 0.2))
    quiet = SameNoise()
    diffrec.eval().full_sort_predict(batch(HISTORIES, TARGETS), noise=quiet)
    assert quiet.names == ["x_T"]


@torch.no_grad()
def test_one_step_and_one_seed_is_the_plain_formula() -> None:
    diffrec = model().eval()
    interaction = batch(HISTORIES, TARGETS)
    history = diffrec.history(interaction)
    x_T = diffrec.inference_noise(history).at(15).normal("x_T", (4, 16))
    last = torch.full((4,), 15)
    x0_hat = diffrec.denoise(x_T, last, diffrec.encode(history, SameNoise()), SameNoise())
    expected = (x0_hat @ diffrec.item_embedding.weight[1:].T).softmax(dim=-1)
    scores = diffrec.full_sort_predict(interaction)
    torch.testing.assert_close(scores[:, 1:].exp(), expected, atol=1e-6, rtol=0)
    assert (scores[:, 0] == -torch.inf).all()


@torch.no_grad()
def test_several_seeds_average_the_probabilities() -> None:
    interaction = batch(HISTORIES, TARGETS)
    several = model(inference_seeds=4).eval()
    history = several.history(interaction)
    singles = [several.full_sort_predict(interaction, several.inference_noise(history, draw)) for draw in range(4)]
    expected = torch.stack(singles).exp().mean(dim=0).log()
    torch.testing.assert_close(several.full_sort_predict(interaction), expected, atol=1e-5, rtol=0)
    assert not torch.allclose(singles[0][:, 1:], singles[1][:, 1:], atol=1e-3)


@torch.no_grad()
def test_improbable_items_stay_apart() -> None:
    diffrec = model(rounding="linear").eval()
    assert diffrec.rounding is not None
    diffrec.rounding.weight.mul_(1000)
    scores = diffrec.full_sort_predict(batch(HISTORIES, TARGETS))[:, 1:]
    assert scores.isfinite().all() and scores.min() < -200
    assert all(len(row.unique()) == 10 for row in scores)


@torch.no_grad()
def test_error_of_the_seed_average_falls_as_the_root_of_the_seeds() -> None:
    interaction = batch([[1 + i % 10, 1 + (3 * i) % 10, 1 + (7 * i) % 10, 1 + i // 10] for i in range(50)], [1] * 50)
    diffrec = model(initializer_range=1.0).eval()

    def average(first: int, seeds: int) -> torch.Tensor:
        history = diffrec.history(interaction)
        draws = [diffrec.sample(history, diffrec.inference_noise(history, first + draw)).x_0 for draw in range(seeds)]
        return diffrec.score(torch.stack(draws))[:, 1:].exp().double()

    limit = average(10_000, 1000)
    counts = [1, 2, 4, 8, 16, 32]
    errors = [
        np.sqrt(np.mean([(average(100 * trial, n) - limit).square().mean() for trial in range(6)])) for n in counts
    ]
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.1)


def trained_spread(rounding_weight: float) -> float:
    """Share of the start's variance between item embeddings that is left after training on toy data."""
    diffrec = model(rounding_weight=rounding_weight, initializer_range=0.5, embedding_noise=0.001).train()
    start = diffrec.item_embedding.weight[1:].var(dim=0).sum().item()
    optimizer = torch.optim.Adam(diffrec.parameters(), lr=0.02)
    # Every item has two possible successors: what cannot be foreseen is what pulls embeddings together.
    walks = torch.cumsum(torch.randint(1, 3, (200, 4)), dim=1) + torch.arange(200)[:, None]
    toy = batch((1 + walks[:, :3] % 10).tolist(), (1 + walks[:, 3] % 10).tolist())
    for _ in range(250):
        optimizer.zero_grad()
        diffrec.calculate_loss(toy).backward()
        optimizer.step()
    return diffrec.item_embedding.weight[1:].var(dim=0).sum().item() / start


def test_rounding_term_keeps_the_embeddings_apart() -> None:
    assert trained_spread(1.0) > 0.5
    assert trained_spread(0.0) < 0.1


@pytest.mark.parametrize("normalised", [True, False])
def test_first_step_compares_with_the_embedding_itself(normalised: bool) -> None:
    diffrec = model(rounding_weight=0.0, embedding_noise=4.0, normalize_x_0=normalised)
    seen: list[torch.Tensor] = []
    diffrec.output.register_forward_hook(lambda module, inputs, output: seen.append(output))
    for step in (0, 3):
        loss = diffrec.calculate_loss(batch(HISTORIES, TARGETS), SameNoise(1.0, torch.full((4,), step)))
        embedded = diffrec.item_embedding(torch.tensor(TARGETS))
        if normalised:
            embedded = torch.nn.functional.layer_norm(embedded, (16,))
        expected = embedded if step == 0 else embedded + 2.0
        torch.testing.assert_close(loss, (expected - seen[-1]).square().sum(dim=-1).mean())


def test_step_sampler_learns_from_the_reconstruction_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    learnt: list[torch.Tensor] = []
    for weight in (0.0, 1000.0):
        diffrec = model(rounding_weight=weight)
        monkeypatch.setattr(diffrec.step_sampler, "update", lambda timestep, loss, mask: learnt.append(loss))
        loss = diffrec.calculate_loss(batch(HISTORIES, TARGETS), SameNoise(timestep=torch.tensor([0, 5, 10, 15])))
        if weight == 0:
            torch.testing.assert_close(learnt[0].mean(), loss.detach())
    assert torch.equal(*learnt)


def test_forward_marginals_of_the_slot_by_simulation() -> None:
    diffrec, rows = model(embedding_noise=0.25), 20_000
    torch.manual_seed(0)
    noise = FreshNoise("cpu")
    target = torch.full((rows,), 3)
    embedded = diffrec.item_embedding.weight[3].detach()
    for t in (0, 7, 15):
        truth = diffrec.x_start(target, noise)
        x_t = diffrec.process.sample(truth, torch.full((rows,), t), torch.randn(rows, 16)).detach()
        # q(h^0 | v) first, then the transitions one by one.
        scale, variance = 1.0, 0.25
        for beta in diffrec.process.betas[: t + 1].tolist():
            scale, variance = scale * (1 - beta) ** 0.5, variance * (1 - beta) + beta
        torch.testing.assert_close(x_t.mean(0), scale * embedded, rtol=0, atol=5 * (variance / rows) ** 0.5)
        torch.testing.assert_close(x_t.var(0), torch.full((16,), variance), rtol=5 * (2 / rows) ** 0.5, atol=0)


@pytest.mark.parametrize("reads", ["prediction", "truth"])
@pytest.mark.parametrize("rounding", ["tied", "linear"])
@pytest.mark.parametrize("loss_type", ["CE", "BPR"])
def test_loss_reaches_every_part(reads: str, rounding: str, loss_type: str) -> None:
    diffrec = model(rounding_reads=reads, rounding=rounding, loss_type=loss_type)
    interaction = batch(HISTORIES, TARGETS) | {"neg_item_id": torch.tensor([1, 2, 3, 4])}
    diffrec.calculate_loss(interaction).backward()
    silent = {name for name, parameter in diffrec.named_parameters() if parameter.grad is None}
    assert silent == set()


def test_position_table_keeps_the_whole_history() -> None:
    diffrec = model(MAX_ITEM_LIST_LENGTH=3).eval()
    full = diffrec.full_sort_predict(batch([[1, 2, 3]], [4]), noise=SameNoise(0.0))
    changed = diffrec.full_sort_predict(batch([[5, 2, 3]], [4]), noise=SameNoise(0.0))
    assert not torch.allclose(full, changed, atol=1e-5)
