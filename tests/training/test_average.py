from __future__ import annotations

from pathlib import Path

import torch
from test_trainer import last_file, make
from torch import nn

from recbole_diffusion.training import checkpoint
from recbole_diffusion.training.average import AveragedWeights


def test_the_average_is_that_of_a_plain_loop() -> None:
    torch.manual_seed(0)
    model, decay = nn.Linear(3, 2), 0.9
    average = AveragedWeights(model, decay)
    plain = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(20):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter)
        average.update()
        for name, weight in model.state_dict().items():
            plain[name] = decay * plain[name] + (1 - decay) * weight
    for name, value in plain.items():
        torch.testing.assert_close(average.state[name], value)


def test_weights_in_use_are_the_average_and_come_back_to_the_bit() -> None:
    model = nn.Linear(3, 2)
    average = AveragedWeights(model, 0.5)
    before = average.state["weight"].clone()
    with torch.no_grad():
        model.weight += 1 / 3
    own, place = model.weight.detach().clone(), model.weight.data_ptr()
    with average.in_use():
        assert torch.equal(model.weight, before)
    assert torch.equal(model.weight, own) and model.weight.data_ptr() == place


def test_a_tensor_that_two_layers_share_has_one_average_under_both_names() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    average = AveragedWeights(model, 0.5)
    assert set(average.state) == set(model.state_dict())
    assert average.state["0.weight"] is average.state["1.weight"]


def test_training_averages_its_weights_and_goes_on_with_the_plain_ones(tmp_path: Path) -> None:
    decay = 0.8
    plain = make(tmp_path / "plain")
    weights = {name: value.clone() for name, value in plain.trainer.model.named_parameters()}
    steps, take = plain.trainer.steps, plain.trainer.steps.take

    def take_and_average(*args: object) -> torch.Tensor:
        losses = take(*args)
        for name, value in plain.trainer.model.named_parameters():
            weights[name] = decay * weights[name] + (1 - decay) * value.detach()
        return losses

    steps.take = take_and_average
    plain.fit()
    averaged = make(tmp_path / "averaged", ema_decay=decay)
    averaged.fit()
    assert averaged.trainer.train_loss_dict == plain.trainer.train_loss_dict

    there, here = (checkpoint.load(last_file(run.trainer)) for run in (plain, averaged))
    assert there["average"] is None
    for name, value in there["state_dict"].items():
        assert torch.equal(here["state_dict"][name], value)
    for name, value in weights.items():
        torch.testing.assert_close(here["average"][name], value)
        torch.testing.assert_close(averaged.trainer.steps.average.state[name], value)


def test_what_is_evaluated_and_saved_as_the_best_is_the_average(tmp_path: Path) -> None:
    run = make(tmp_path, ema_decay=0.8)
    score, result = run.fit()
    assert run.trainer.best_epoch == 1
    state = checkpoint.load(run.trainer.saved_model_file)
    best = checkpoint.best_weights(state)["state_dict"]
    assert not torch.equal(best["item_embedding.weight"], state["state_dict"]["item_embedding.weight"])
    assert run.trainer.evaluate(run.valid) == result
    for name, value in run.trainer.model.state_dict().items():
        assert torch.equal(value, best[name])
    plain = make(tmp_path)
    assert plain.trainer.evaluate(plain.valid, model_file=run.trainer.saved_model_file) == result
    checkpoint.set_weights(plain.trainer.model, state, "cpu")
    assert plain.trainer.evaluate(plain.valid, load_best_model=False) != result
    assert score == result["ndcg@10"]


def test_without_validation_the_last_average_is_the_best(tmp_path: Path) -> None:
    run = make(tmp_path, ema_decay=0.8)
    run.trainer.fit(run.train)
    tested = run.trainer.evaluate(run.test)
    other = make(tmp_path, ema_decay=0.8)
    assert other.trainer.evaluate(other.test, model_file=run.trainer.saved_model_file) == tested
    assert run.trainer.evaluate(run.test, load_best_model=False) != tested


def test_a_resumed_run_may_begin_or_end_to_average(tmp_path: Path) -> None:
    run = make(tmp_path, epochs=1)
    run.fit()
    begun = make(tmp_path, ema_decay=0.8)
    begun.trainer.resume_checkpoint(last_file(run.trainer))
    trained = run.trainer.model.item_embedding.weight
    assert torch.equal(begun.trainer.steps.average.state["item_embedding.weight"], trained)
    begun.fit()
    ended = make(tmp_path, epochs=3)
    ended.trainer.resume_checkpoint(last_file(begun.trainer))
    ended.fit()
    assert checkpoint.load(last_file(ended.trainer))["average"] is None
