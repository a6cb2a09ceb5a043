from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from recbole.model.sequential_recommender import SASRec
from test_trainer import TRANSFORMER, last_file, make

from recbole_diffusion.training import checkpoint


class AllPlaces(SASRec):
    """A SASRec whose every place has the next item as its target."""

    trains_on: ClassVar[str] = "sequences"

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        items, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        target = F.pad(items[:, 1:], (0, 1)).scatter(1, (length - 1)[:, None], interaction[self.ITEM_ID][:, None])
        place = torch.arange(items.shape[1])
        x = self.dropout(self.LayerNorm(self.item_embedding(items) + self.position_embedding(place)))
        output = self.trm_encoder(x, self.get_attention_mask(items), output_all_encoded_layers=True)[-1]
        logits = output @ self.item_embedding.weight.T
        return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=0)


@pytest.mark.parametrize("length_batching", [False, True])
def test_a_model_that_trains_on_sequences_learns_and_resumes_exactly(tmp_path: Path, length_batching: bool) -> None:
    settings = {**TRANSFORMER, "epochs": 4, "train_batch_size": 16, "length_batching": length_batching}
    straight = make(tmp_path, AllPlaces, **settings)
    expected = straight.fit()
    losses = list(straight.trainer.train_loss_dict.values())
    assert losses == sorted(losses, reverse=True)

    broken = make(tmp_path, AllPlaces, **{**settings, "epochs": 2})
    broken.fit()
    resumed = make(tmp_path, AllPlaces, **settings)
    resumed.trainer.resume_checkpoint(last_file(broken.trainer), resumed.train)
    assert resumed.fit() == expected
    assert resumed.trainer.train_loss_dict == straight.trainer.train_loss_dict
    there, here = (checkpoint.load(last_file(run.trainer))["state_dict"] for run in (straight, resumed))
    assert all(torch.equal(there[name], here[name]) for name in there)
