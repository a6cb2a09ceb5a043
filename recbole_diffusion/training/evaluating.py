"""Metrics of a model: full rankings a block of rows at a time, sampled ones by whole batches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import recbole.trainer
import torch
from recbole.utils import EvaluatorType
from torch import Tensor, nn

from ..common.blocks import row_pieces
from ..errors import SettingError
from ..evaluation.collector import TopCollector
from . import checkpoint


class EvaluatingTrainer(recbole.trainer.Trainer):
    """RecBole's trainer as far as evaluation goes.

    Parameters
    ----------
    config : recbole Config
    model : recbole AbstractRecommender
    """

    def __init__(self, config: Any, model: nn.Module) -> None:
        super().__init__(config, model)
        if TopCollector.suffices(config):
            self.eval_collector = TopCollector(config)

    def check_catalogue(self, loader: Any) -> None:
        """Refuse cut-offs of a ranking that are longer than the catalogue.

        Raises
        ------
        SettingError
        """
        if self.config["eval_type"] == EvaluatorType.RANKING:
            items = loader._dataset.item_num - 1
            if max(self.config["topk"]) > items:
                must = f"hold numbers of at most {items}, the number of items in the catalogue"
                raise SettingError("topk", self.config["topk"], must=must)

    def metrics(self, eval_data: Any, show_progress: bool = False) -> OrderedDict[str, float]:
        """Evaluate the model as it is; training's random state is the same before and after.

        Returns
        -------
        OrderedDict
            Metric -> value, as plain floats.
        """
        self.check_catalogue(eval_data)
        before = checkpoint.random_state()
        try:
            result = super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)
        finally:
            checkpoint.set_random_state(before)
        return OrderedDict((metric, float(value)) for metric, value in result.items())

    def score_pieces(self, batched_data: Any, n_items: int) -> Iterator[tuple[slice, Tensor]]:
        """Scores [rows, V] of a batch of full ranking, a block of rows at a time; what may not be recommended has -inf.

        Parameters
        ----------
        batched_data : tuple
            As RecBole's `FullSortEvalDataLoader` gives it.
        n_items : int
            V, with the padding item.

        Yields
        ------
        (slice, Tensor [rows, V])
        """
        interaction, history_index, *_ = batched_data
        self.tot_item_num = n_items
        for piece in row_pieces(len(interaction), n_items):
            hidden = None
            if history_index is not None:
                inside = (history_index[0] >= piece.start) & (history_index[0] < piece.stop)
                hidden = (history_index[0][inside] - piece.start, history_index[1][inside])
            _, scores, _, _ = super()._full_sort_batch_eval((interaction[piece], hidden, None, None))
            yield piece, scores

    def _full_sort_batch_eval(self, batched_data: Any) -> tuple[Any, Tensor, Tensor, Tensor]:
        if not isinstance(self.eval_collector, TopCollector):
            return super()._full_sort_batch_eval(batched_data)
        interaction, _, positive_u, positive_i = batched_data
        pieces = self.score_pieces(batched_data, self.tot_item_num)
        best = torch.cat([self.eval_collector.best(scores) for _, scores in pieces])
        return interaction, best, positive_u, positive_i

    def _neg_sample_batch_eval(self, batched_data: Any) -> tuple[Any, Tensor, Tensor, Tensor]:
        interaction, scores, positive_u, positive_i = super()._neg_sample_batch_eval(batched_data)
        if isinstance(self.eval_collector, TopCollector):
            scores = self.eval_collector.best(scores)
        return interaction, scores, positive_u, positive_i

    def _spilt_predict(self, interaction: Any, batch_size: int) -> Tensor:
        if getattr(self.model, "predicts_whole_batches", False):
            return self.model.predict(interaction.to(self.device))
        return super()._spilt_predict(interaction, batch_size)
