"""What an evaluation keeps of each batch, in the place of RecBole's collector."""

from __future__ import annotations

from typing import Any

import torch
from recbole.evaluator import Collector
from recbole.evaluator.register import Register
from recbole.utils import EvaluatorType
from torch import Tensor


class TopCollector(Collector):
    """RecBole's collector for metrics that need no more than the best items: it never sees a score.

    RecBole's own holds two more matrices of users times items.
    """

    @staticmethod
    def suffices(config: Any) -> bool:
        """Whether the metrics of a run can do without the scores."""
        needs = Register(config).need
        return config["eval_type"] == EvaluatorType.RANKING and not (needs("rec.score") or needs("rec.meanrank"))

    def best(self, scores: Tensor) -> Tensor:
        """The best items [n, k] by scores [n, V]."""
        return scores.topk(max(self.topk)).indices

    def eval_batch_collect(
        self, scores_tensor: Tensor, interaction: Any, positive_u: Tensor, positive_i: Tensor
    ) -> None:
        """Take in the best items [n, k], in the place of scores, and each row's positives."""
        best = scores_tensor
        if self.register.need("rec.items"):
            self.data_struct.update_tensor("rec.items", best)
        if self.register.need("rec.topk"):
            positive_u, positive_i = positive_u.to(best.device), positive_i.to(best.device)
            rows = torch.arange(len(best), device=best.device)[:, None]
            n_items = 1 + torch.cat([best.flatten(), positive_i]).max()
            hits = torch.isin(rows * n_items + best, positive_u * n_items + positive_i)
            positives = torch.bincount(positive_u, minlength=len(best))[:, None]
            self.data_struct.update_tensor("rec.topk", torch.cat([hits, positives], dim=1).int())
