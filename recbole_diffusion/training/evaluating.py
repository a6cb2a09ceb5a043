"""Metrics of a model: full rankings a block of rows at a time, sampled ones by whole batches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import recbole.trainer
import torch
from recbole.evaluator import Collector
from recbole.utils import EvaluatorType
from torch import Tensor, nn

from ..common.blocks import row_pieces
from ..errors import SettingError
from ..evaluation.collector import TopCollector
from ..evaluation.protocols import protocols, with_suffix
from . import checkpoint, distributed


class EvaluatingTrainer(recbole.trainer.Trainer):
    """RecBole's trainer as far as evaluation goes.

    Parameters
    ----------
    config : recbole Config
    model : recbole AbstractRecommender
    """

    def __init__(self, config: Any, model: nn.Module) -> None:
        super().__init__(config, model)
        collector = TopCollector if TopCollector.suffices(config) else Collector
        self.eval_collector = collector(config)
        # Where both rankings are reported, that without the history has a collector of its own.
        self.other_collectors = {protocol: collector(config) for protocol in self.protocols[1:]}
        self.processes = distributed.present()
        # Of split items each process ranks its own, in every batch.
        self.own_items = getattr(model, "own_items", None)
        self.evaluates_with = self.processes if self.own_items is None else distributed.Alone()
        self.evaluator: Any = self.evaluates_with.evaluator(self.evaluator)
        # Of each batch of an evaluation, how many rows have scores that are no numbers: looked at once it is over.
        self._without_scores: list[Tensor] = []
        for each in (self.eval_collector, *self.other_collectors.values()):
            self.evaluates_with.shares(each)

    @property
    def protocols(self) -> tuple[str, ...]:
        """The rankings that are evaluated, as `evaluation.protocols` has them; validation follows the first."""
        return protocols(self.config["history_in_ranking"])

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
            Metric -> value, as plain floats; with `history_in_ranking: both` also those without the history, whose
            names end in `protocols.SUFFIX`.
        """
        self.check_catalogue(eval_data)
        before = checkpoint.random_state()
        self._without_scores = []
        try:
            own = self.evaluates_with.own_batches(eval_data)
            result = super().evaluate(own, load_best_model=False, show_progress=show_progress)
            for collector in self.other_collectors.values():
                result |= self._metrics_without_history(collector)
        finally:
            checkpoint.set_random_state(before)
        rows = int(torch.stack(self._without_scores).sum()) if self._without_scores else 0
        if rows:
            cause = "the weights are damaged, or a setting such as noise_scale is too large"
            self.logger.warning(f"{rows} rows have scores that are NaN, so that these metrics mean nothing: {cause}")
        return OrderedDict((metric, float(value)) for metric, value in result.items())

    def _metrics_without_history(self, collector: Collector) -> dict[str, float]:
        collected = collector.get_data_struct()
        # What is known of the training data, such as the items' popularity.
        for name, value in self.eval_collector.data_struct._data_dict.items():
            collected.set(name, value)
        metrics = with_suffix(self.evaluator.evaluate(collected))
        self.wandblogger.log_eval_metrics(metrics, head="eval")
        return metrics

    def score_pieces(self, batched_data: Any, n_items: int) -> Iterator[tuple[str, slice, Tensor]]:
        """Scores [rows, V] of a batch of full ranking, a block of rows at a time; what may not be recommended has -inf.

        With `history_in_ranking: both` each block comes twice, from the same scores. Of split items, V are those of
        this process.

        Parameters
        ----------
        batched_data : tuple
            As RecBole's `FullSortEvalDataLoader` gives it.
        n_items : int
            V, with the padding item.

        Yields
        ------
        (str, slice, Tensor [rows, V])
            The protocol, the rows, and their scores, which hold until the next block is asked for.
        """
        interaction, history_index, *_ = batched_data
        self.tot_item_num = n_items
        for piece in row_pieces(len(interaction), n_items):
            hidden = None
            if history_index is not None:
                inside = (history_index[0] >= piece.start) & (history_index[0] < piece.stop)
                hidden = (history_index[0][inside] - piece.start, history_index[1][inside])
                hidden = hidden if self.own_items is None else self.own_items.inside(*hidden)
            scores = self._scores(interaction[piece])
            # A row whose vector is NaN has NaN for every item.
            self._without_scores.append(scores[:, -1].isnan().sum())
            for protocol in self.protocols:
                if protocol == "out" and hidden is not None:
                    scores[hidden] = -torch.inf
                yield protocol, piece, scores

    def _scores(self, interaction: Any) -> Tensor:
        """Scores [rows, V] of all items of this process, -inf for the padding."""
        if self.own_items is None:
            return super()._full_sort_batch_eval((interaction, None, None, None))[1]
        scores = self.model.full_sort_predict(interaction.to(self.device))
        scores[:, : self.own_items.first_candidate(1)] = -torch.inf
        return scores

    def _best_items(self, scores: Tensor) -> Tensor:
        """The best items [rows, k] of all."""
        if self.own_items is None:
            return self.eval_collector.best(scores)
        return self.own_items.best(scores, max(self.config["topk"]))

    def _full_sort_batch_eval(self, batched_data: Any) -> tuple[Any, Tensor, Tensor, Tensor]:
        interaction, _, positive_u, positive_i = batched_data
        best_only = isinstance(self.eval_collector, TopCollector)
        parts: dict[str, list[Tensor]] = {protocol: [] for protocol in self.protocols}
        for protocol, _, scores in self.score_pieces(batched_data, self.tot_item_num):
            parts[protocol].append(self._best_items(scores) if best_only else scores.clone())
        main, *others = (torch.cat(part) for part in parts.values())
        for collector, collected in zip(self.other_collectors.values(), others, strict=True):
            collector.eval_batch_collect(collected, interaction, positive_u, positive_i)
        return interaction, main, positive_u, positive_i

    def _neg_sample_batch_eval(self, batched_data: Any) -> tuple[Any, Tensor, Tensor, Tensor]:
        interaction, scores, positive_u, positive_i = super()._neg_sample_batch_eval(batched_data)
        if isinstance(self.eval_collector, TopCollector):
            scores = self.eval_collector.best(scores)
        return interaction, scores, positive_u, positive_i

    def _spilt_predict(self, interaction: Any, batch_size: int) -> Tensor:
        if getattr(self.model, "predicts_whole_batches", False):
            return self.model.predict(interaction.to(self.device))
        return super()._spilt_predict(interaction, batch_size)
