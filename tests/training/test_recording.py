from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from marks import needs_gpu
from recbole.data.interaction import Interaction
from test_trainer import make
from torch import nn

from recbole_diffusion.errors import SettingError
from recbole_diffusion.model.base import DiffusionRecommender
from recbole_diffusion.model.dreamrec import DreamRec
from recbole_diffusion.model.lastitem import LastItem
from recbole_diffusion.training import checkpoint
from recbole_diffusion.training.recording import Recorded, RecordedSteps, obstacle


class StepsAgain(RecordedSteps):
    """Stands for CUDA graphs on a CPU: a recording calls the step on its inputs, and writes where it wrote before."""

    recordings = 0

    def aside(self, interaction: Interaction) -> torch.Tensor:
        return self.step(interaction)

    def record(self, inputs: Interaction) -> Recorded:
        self.recordings += 1
        losses = torch.full((1,), torch.nan)
        return Recorded(inputs, lambda: losses.copy_(self.step(inputs)), losses)


def rows(*values: float) -> Interaction:
    return Interaction({"x": torch.tensor(values)})


def steps_again() -> StepsAgain:
    return StepsAgain(lambda batch: batch["x"].sum().reshape(1))


def test_a_shape_is_recorded_at_its_second_batch_and_replayed_with_the_inputs_of_each() -> None:
    steps = steps_again()
    assert steps(rows(1, 2)) == 3 and steps.recordings == 0
    second = steps(rows(3, 4))
    assert steps.recordings == 1
    assert steps(rows(5, 6)) == 11 and steps.recordings == 1
    # What was given before is not written over.
    assert second == 7
    assert steps(rows(5, 6, 7)) == 18 and steps(rows(6, 7, 8)) == 21 and steps.recordings == 2


def test_a_batch_of_one_row_is_never_recorded() -> None:
    steps = StepsAgain(lambda batch: batch["x"].sum().reshape(1))
    assert [float(steps(rows(value))) for value in (1, 2, 3)] == [1, 2, 3] and steps.recordings == 0


def test_what_is_handed_in_stays_as_it_is() -> None:
    steps = steps_again()
    batches = [rows(1, 2), rows(3, 4), rows(5, 6)]
    for batch in batches:
        steps(batch)
    assert [batch["x"].tolist() for batch in batches] == [[1, 2], [3, 4], [5, 6]]


def test_training_by_recordings_is_training(tmp_path: Path) -> None:
    plain = make(tmp_path, "DiffuRec", length_batching=True).fit(saved=False)
    run = make(tmp_path, "DiffuRec", length_batching=True)
    run.trainer.steps.recording = True
    run.trainer.steps._recorded = steps = StepsAgain(run.trainer.steps.stepper(run.trainer.optimizer).step)
    assert run.fit(saved=False) == plain
    assert steps.recordings > 1


def test_a_resumed_run_records_anew(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.fit()
    run.trainer.steps.recording = True
    before = run.trainer.steps.stepper(run.trainer.optimizer)
    assert run.trainer.steps.stepper(run.trainer.optimizer) is before
    run.trainer.resume_checkpoint(run.trainer.last_checkpoint)
    assert run.trainer.steps.stepper(run.trainer.optimizer) is not before


def test_another_learning_rate_is_written_where_a_recording_reads_it(tmp_path: Path) -> None:
    run = make(tmp_path, lr_step_size=2, warmup_steps=2)
    steps, group = run.trainer.steps, run.trainer.optimizer.param_groups[0]
    group["lr"] = rate = torch.tensor(group["lr"])
    steps.recording, steps._recorded = True, steps_again()
    read = []
    steps._recorded.step = lambda batch: read.append(float(rate)) or torch.zeros(1)
    for _ in range(3):
        steps.take(run.trainer.optimizer, rows(1, 2))
    steps.start_epoch(2, [run.trainer.optimizer])
    steps.take(run.trainer.optimizer, rows(1, 2))
    # Two of the warm-up, and of 0.001 a tenth after two epochs.
    assert read == pytest.approx([0.0005, 0.001, 0.001, 0.0001])
    assert steps._recorded.recordings == 1 and group["lr"] is rate


def test_a_learning_rate_that_changes_is_a_tensor_where_steps_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recbole_diffusion.training.steps.obstacle", lambda *args, **kwargs: None)
    for changes in (False, True):
        run = make(tmp_path, cuda_graphs=True, lr_cosine_epochs=3 if changes else None)
        assert isinstance(run.trainer.optimizer.param_groups[0]["lr"], torch.Tensor) == changes


def test_losses_from_elsewhere_are_not_recorded(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.trainer.steps.recording = True
    assert not isinstance(run.trainer.steps.stepper(run.trainer.optimizer, lambda batch: batch), RecordedSteps)


def test_why_steps_are_not_recorded(tmp_path: Path) -> None:
    gpu = {"device": torch.device("cuda"), "learner": "sgd"}
    model = make(tmp_path, "DiffuRec").trainer.model
    adam, sgd = (learner(model.parameters(), lr=0.1) for learner in (torch.optim.Adam, torch.optim.SGD))
    assert obstacle({"device": torch.device("cpu")}, model, adam, scaled=False) == "there is no GPU in use"
    assert obstacle(gpu, model, sgd, scaled=False) == "learner=sgd does not allow it"
    assert obstacle(gpu, model, adam, scaled=True) == "enable_scaler looks at each step's gradients"
    assert obstacle(gpu, model, adam, scaled=False) is None
    assert obstacle(gpu, make(tmp_path).trainer.model, adam, scaled=False) is None
    other = make(tmp_path, "NARM").trainer.model
    assert obstacle(gpu, other, adam, scaled=False) == "NARM is not known to allow it"
    # Somebody's own model of that name is not RecBole's.
    own = type("SASRec", (nn.Module,), {})()
    assert obstacle(gpu, own, adam, scaled=False) == "SASRec is not known to allow it"
    # Nor is a model of somebody's own recorded before they say that it may be, whatever it derives from.
    for base in (DiffusionRecommender, DreamRec, LastItem):
        pooled = type("Pooled", (base,), {})
        assert obstacle(gpu, pooled.__new__(pooled), adam, scaled=False) == "Pooled is not known to allow it"
    assert obstacle(gpu, LastItem.__new__(LastItem), adam, scaled=False) is None


def test_without_a_gpu_the_log_says_that_the_setting_has_no_effect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        run = make(tmp_path, cuda_graphs=True)
    assert "cuda_graphs: without effect, there is no GPU in use" in caplog.text
    assert not run.trainer.steps.recording and not run.trainer.optimizer.param_groups[0]["capturable"]


@needs_gpu
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"model": "DiffuRec"},
        {"model": "DiffuRec", "attention_mask": "reference"},
        {"model": "DiffuRec", "diffusion": False},
        {"model": "DiffRec", "step_sampler": "lossaware"},
        {"model": "SASRec", "lr_step_size": 2, "clip_grad_norm": {"max_norm": 1.0}},
        {"model": "DiffuRec", "ema_decay": 0.9, "warmup_steps": 7},
        {"model": "SASRec", "frozen_epochs": 1},
        {"model": "DiffuRec", "compile": True},
        {"model": "SASRec", "compile": True},
        *({"model": model} for model in ("ADRec", "BBDRec", "BSARec", "DreamRec", "FMRec", "GRU4Rec", "LastItem")),
        {"model": "ADRec", "lr_cosine_epochs": 3, "weight_decay": 1e-3, "learner": "adamw"},
        *({"model": "ADRec", **more} for more in ({"pcgrad": True}, {"geodesic": True}, {"step_sampler": "lossaware"})),
        *({"model": "PreferDiff", "objective": name} for name in ("neg_sample", "negh", "sdpo")),
        *({"model": "DreamRec", **more} for more in ({"guidance_drop": 0.2}, {"loss_type": "BPR", "ce_weight": 1.0})),
        *({"model": model} for model in ("LightSANs", "PreferDiff", "PreferGrow", "RFMRec", "SASRecPlus")),
    ],
)
def test_recorded_steps_are_the_plain_ones_on_a_gpu(tmp_path: Path, settings: dict[str, Any], half: bool) -> None:
    runs = [
        make(tmp_path, **settings, enable_amp=half, cuda_graphs=graphs, length_batching=True, epochs=3, gpu_id="0")
        for graphs in (False, True)
    ]
    weights = []
    for run in runs:
        torch.manual_seed(7)
        run.fit(saved=False)
        average = run.trainer.steps.average
        averaged = (
            {} if average is None else {f"average of {name}": value.cpu() for name, value in average.state.items()}
        )
        weights.append({**checkpoint.weights(run.trainer.model)["state_dict"], **averaged})
    assert runs[1].trainer.steps._recorded is not None and any(runs[1].trainer.steps._recorded._steps.values())
    losses = [list(run.trainer.train_loss_dict.values()) for run in runs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2 if half else 1e-4)
    for name, plain in weights[0].items():
        torch.testing.assert_close(weights[1][name], plain, rtol=0, atol=1e-2 if half else 1e-3)


def test_a_step_that_cannot_be_recorded_gives_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def recording(*args: Any, **kwargs: Any) -> Iterator[None]:
        # As torch does it, whose end of a recording fails too.
        try:
            yield
        finally:
            raise RuntimeError("the recording was invalidated")

    def waits(batch: Interaction) -> torch.Tensor:
        raise RuntimeError("not permitted while recording\nmore of it")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=None))
    monkeypatch.setattr(torch.cuda, "graph", recording)
    with pytest.raises(
        SettingError, match=r"cuda_graphs must be False, .* \(not permitted while recording\), got True$"
    ):
        RecordedSteps(waits).record(rows(1))
