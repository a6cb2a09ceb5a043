from __future__ import annotations

import copy
import logging
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from functorch.compile import nop
from test_trainer import make
from torch._dynamo.backends.common import aot_autograd

from recbole_diffusion.errors import SettingError
from recbole_diffusion.model.layers import Encoder
from recbole_diffusion.training import checkpoint
from recbole_diffusion.training.compiling import Compiled, compile_network

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants a C++ compiler")


def loss_and_gradients(network: Any, batch: Any) -> list[torch.Tensor]:
    torch.manual_seed(1)
    network.zero_grad()
    loss = network.calculate_loss(batch)
    loss.backward()
    return [loss.detach(), *(weight.grad.clone() for weight in network.parameters() if weight.grad is not None)]


@needs_compiler
def test_a_compiled_network_has_the_same_loss_and_gradients(tmp_path: Path) -> None:
    # Without dropout, whose random numbers are others where it is compiled.
    none = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "embedding_dropout_prob": 0.0}
    run = make(tmp_path, "DiffuRec", **none, train_batch_size=50)
    network = run.trainer.model.train()
    batch = next(iter(run.train))
    names = checkpoint.weights(network)["state_dict"].keys()
    plain = loss_and_gradients(network, batch)
    compile_network(network, torch.device("cpu"))
    torch.testing.assert_close(loss_and_gradients(network, batch), plain, atol=1e-5, rtol=1e-4)
    assert checkpoint.weights(network)["state_dict"].keys() == names


@pytest.mark.parametrize(
    ("model", "compiled"),
    [("DiffuRec", ["encoder"]), ("ADRec", ["encoder", "decoder"]), ("PreferGrow", ["encoder"]), ("SASRec", [""])],
)
@needs_compiler
def test_what_is_compiled(tmp_path: Path, model: str, compiled: list[str]) -> None:
    network = make(tmp_path, model, compile=True).trainer.model
    assert [name for name, part in network.named_modules() if isinstance(part.forward, Compiled)] == compiled


@needs_compiler
def test_the_baselines_of_this_package_are_compiled_too(tmp_path: Path) -> None:
    assert isinstance(make(tmp_path, "BSARec", compile=True).trainer.model.read, Compiled)
    # Which trains by all places, and reads one in evaluation.
    assert isinstance(make(tmp_path, "SASRecPlus", compile=True).trainer.model.encoder.forward, Compiled)


@needs_compiler
def test_a_loss_with_two_gradients_is_trained_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = make(tmp_path, "ADRec", compile=True, pcgrad=True, train_batch_size=50)
    assert "the network is trained as it is, as pcgrad takes two gradients of one pass" in caplog.text
    run.trainer.model.calculate_loss(next(iter(run.train))).backward()


def test_where_compiling_fails_a_warning_says_it_once(caplog: pytest.LogCaptureFixture) -> None:
    def fails(*args: Any) -> Any:
        raise torch._dynamo.exc.TorchDynamoException("no triton here\nmore of it")

    network: list[Compiled] = []
    first, second = (Compiled(lambda x: 2 * x, "Encoder.forward", network) for _ in range(2))
    first.compiled = second.compiled = fails
    first.tried_gradients = second.tried_gradients = True
    assert [first(1), second(1), first(2)] == [2, 2, 4]
    assert [record.message for record in caplog.records] == [
        "compile: the network is trained as it is, as Encoder.forward cannot be compiled (no triton here)"
    ]


def test_a_backward_pass_that_cannot_be_compiled_is_noticed_before_the_step(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*args: Any) -> Any:
        raise RuntimeError("no triton here")

    backend = aot_autograd(fw_compiler=nop, bw_compiler=fails)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    layers = torch.nn.Sequential(*(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout()) for _ in range(2)))

    def gradients() -> list[torch.Tensor]:
        torch.manual_seed(1)
        loss = layers(torch.ones(3, 4)).square().sum()
        return [loss, torch.rand(2), *torch.autograd.grad(loss, layers.parameters())]

    plain, network = gradients(), []  # type: ignore[var-annotated]
    for layer in layers:
        layer.forward = Compiled(layer.forward, "Encoder.forward", network)
    # The random numbers, too, are those of a network that was never tried.
    assert all(map(torch.equal, gradients(), plain))
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [
        "compile: the network is trained as it is, as Encoder.forward cannot be compiled (no triton here)"
    ]


def test_compiling_without_a_compiler_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(SettingError, match="compile must be False where no C\\+\\+ compiler"):
        make(tmp_path, compile=True)
    compile_network(make(tmp_path).trainer.model, torch.device("cuda"))


def test_a_copy_computes_with_its_own_weights() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    layer.forward = Compiled(layer.forward, "Linear.forward", [])
    layer.forward.gave_up = True
    copied = copy.deepcopy(layer)
    copied.forward.gave_up = True
    with torch.no_grad():
        copied.weight.fill_(5.0)
        assert copied(torch.ones(1)).item() == 5.0 != layer(torch.ones(1)).item()


@needs_compiler
def test_the_encoder_of_another_model_stays_as_it_is(tmp_path: Path) -> None:
    first, second = (make(tmp_path, "DiffuRec").trainer.model for _ in range(2))
    compile_network(first, torch.device("cpu"))
    assert isinstance(second.encoder, Encoder) and not isinstance(second.encoder.forward, Compiled)
