from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_trainer import Run, make

from recbole_diffusion.training import trainer
from recbole_diffusion.training.steps import epoch_rate


def rates_of(run: Run) -> list[float]:
    """The learning rate of each step of a training."""
    rates: list[float] = []
    run.trainer.optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    run.fit(saved=False)
    return rates


def test_the_learning_rate_rises_over_the_warm_up_and_then_falls_by_steps(tmp_path: Path) -> None:
    run = make(tmp_path, epochs=4, warmup_steps=12, lr_step_size=1, lr_gamma=0.5, learning_rate=0.01)
    batches = len(run.train)
    assert batches < 12 < 2 * batches
    rates = rates_of(run)
    plain = [0.01 * 0.5 ** (step // batches) * min(1, (step + 1) / 12) for step in range(4 * batches)]
    assert rates == pytest.approx(plain, rel=1e-12)
    assert rates[12:] == [0.01 * 0.5 ** (step // batches) for step in range(12, 4 * batches)]


def test_the_learning_rate_falls_as_torchs_cosine_does(tmp_path: Path) -> None:
    run = make(tmp_path, epochs=6, stopping_step=10, lr_cosine_epochs=5, learning_rate=0.01)
    rates = rates_of(run)[:: len(run.train)]
    plain = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(plain, T_max=5)
    expected = []
    for _ in range(6):
        expected.append(plain.param_groups[0]["lr"])
        plain.step()
        schedule.step()
    assert rates == pytest.approx(expected, abs=1e-12) and rates[0] == 0.01
    # Where torch's begins to rise again, ours stays.
    config = {"learning_rate": 0.01, "lr_step_size": 2, "lr_gamma": 0.5, "lr_cosine_epochs": 4}
    assert epoch_rate(config, 2) == pytest.approx(0.01 * 0.5 * 0.5) and epoch_rate(config, 9) == 0


def test_without_a_warm_up_the_learning_rate_is_constant(tmp_path: Path) -> None:
    assert set(rates_of(make(tmp_path, learning_rate=0.01))) == {0.01}


@pytest.mark.parametrize(("learner", "decoupled"), [("adamw", True), ("adam", False)])
def test_weight_decay_is_that_of_a_plain_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learner: str, decoupled: bool
) -> None:
    """Adam written out, with the decay on the weights (AdamW) or in the gradient (Adam)."""
    rate, decay, beta1, beta2, epsilon = 0.01, 0.3, 0.9, 0.999, 1e-8
    monkeypatch.setattr(trainer, "FUSES", False)
    settings = {"learner": learner, "weight_decay": decay, "learning_rate": rate, "hidden_dropout_prob": 0.0}
    run, plain = (make(tmp_path, epochs=1, attn_dropout_prob=0.0, **settings) for _ in range(2))
    run.trainer.model.double(), plain.trainer.model.double()
    run.fit(saved=False)

    model = plain.trainer.model.train()
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in model.named_parameters()}
    for step, batch in enumerate(plain.train, start=1):
        model.zero_grad()
        model.calculate_loss(batch).backward()
        with torch.no_grad():
            for name, p in model.named_parameters():
                gradient = p.grad if decoupled else p.grad + decay * p
                p.mul_(1 - rate * decay if decoupled else 1)
                first, second = moments[name]
                first.mul_(beta1).add_(gradient, alpha=1 - beta1)
                second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
                size = (second / (1 - beta2**step)).sqrt() + epsilon
                p.sub_(rate * first / (1 - beta1**step) / size)
    trained = dict(run.trainer.model.named_parameters())
    # No score depends on the keys' biases: their gradients are rounding, of which Adam makes steps of full length.
    for name in (name for name in moments if not name.endswith("key.bias")):
        torch.testing.assert_close(trained[name], model.get_parameter(name), atol=1e-7, rtol=1e-7)
