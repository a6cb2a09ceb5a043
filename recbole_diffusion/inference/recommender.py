"""A saved model that recommends: to histories of its user's, to users of its dataset, to all of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..common.blocks import LARGEST_BLOCK
from ..errors import SettingError, UserError
from ..evaluation.ranking import TopItems, top_items
from ..host.parsing import typed
from ..model.base import MOST_SEEDS, DiffusionRecommender
from ..training import checkpoint
from . import certainty, sampling
from .histories import UserHistories, labelled, read_users
from .restoring import WITH_DATA, restore
from .results import Recommendations, joined
from .vocabulary import Vocabulary

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How to recommend.

    Attributes
    ----------
    topk : int
        Items of a list.
    exclude_seen : bool
        Whether to leave out the items of the history, of all of it.
    inference_steps : int, optional
        Reverse steps; by default as in training's evaluation.
    inference_seeds : int, optional
        Noises from which x_0 is sampled for each history; the model averages what they give. By default as in
        training's evaluation. With two or more they also say how sure the model is.
    seed : int, optional
        Seed of the noise; by default that of the training. A noise depends on seed, history, step and its number
        alone.
    temperature : float
        Multiplies the start x_T of the reverse chain and the noise of its steps.
    diversify : bool
        Whether the list covers what the noises give (see `certainty.cover`) instead of following their mean.
    skip_unknown : bool
        Whether to leave out items that the model does not know, instead of refusing the history.
    batch_size : int
        Rows, a history and a noise each, that go through the network at once. It bounds the memory, and changes scores
        by rounding only.
    """

    topk: int = 10
    exclude_seen: bool = True
    inference_steps: int | None = None
    inference_seeds: int | None = None
    seed: int | None = None
    temperature: float = 1.0
    diversify: bool = False
    skip_unknown: bool = False
    batch_size: int = 512

    def __post_init__(self) -> None:
        """Refuse what is of another type, with a SettingError."""
        for field in fields(self):
            kind = str(field.type).replace("| None", "or ~")
            object.__setattr__(self, field.name, typed(field.name, getattr(self, field.name), kind))

    def check(self, model: Any, n_items: int) -> None:
        """Refuse what cannot be done with a model of so many items.

        Raises
        ------
        SettingError
        """
        _require("topk", self.topk, 1 <= self.topk <= n_items, f"be from 1 to {n_items}, the number of items")
        _require("batch_size", self.batch_size, self.batch_size >= 1, "be positive")
        _require("temperature", self.temperature, self.temperature >= 0, "be at least 0")
        if not _diffuses(model):
            self._require_no_noise(type(model).__name__)
            return
        seeds = self.seeds_of(model)
        _require("inference_seeds", seeds, 1 <= seeds <= MOST_SEEDS, f"be from 1 to {MOST_SEEDS}")
        if self.diversify and seeds < 2:
            raise SettingError("diversify", True, "needs inference_seeds of at least 2")
        longest = model.process.longest_chain
        steps, seed = self.inference_steps, self.seed
        must = f"be from 1 to {longest}, the model's longest chain"
        _require("inference_steps", steps, steps is None or 1 <= steps <= longest, must)
        _require("seed", seed, seed is None or 0 <= seed < 2**63, "be from 0 to below 2**63")
        if self.temperature != 1 and model.process.draws != "normal":
            name = type(model).__name__
            raise SettingError("temperature", self.temperature, f"{name} draws no normal numbers, so leave it out")

    def _require_no_noise(self, name: str) -> None:
        given = {key: getattr(self, key) for key in ("inference_steps", "inference_seeds", "seed")}
        given |= {
            "temperature": None if self.temperature == 1 else self.temperature,
            "diversify": self.diversify or None,
        }
        for key, value in given.items():
            if value is not None:
                raise SettingError(key, value, f"{name} has no reverse process, so leave it out")

    def seeds_of(self, model: Any) -> int:
        """Number of noises for each history."""
        return getattr(model, "inference_seeds", 1) if self.inference_seeds is None else self.inference_seeds


def _require(key: str, value: object, holds: bool, must: str) -> None:
    if not holds:
        raise SettingError(key, value, must=must)


def _diffuses(model: Any) -> bool:
    return isinstance(model, DiffusionRecommender)


class Recommender:
    """A trained sequential model and the items that it knows; made by `Recommender.load`.

    Attributes
    ----------
    model : nn.Module
        In inference mode, on its device.
    vocabulary : Vocabulary
        Tokens and titles of the items.
    dataset : str
        Name of the dataset that it was trained on.
    """

    def __init__(self, path: str | Path, state: Mapping[str, Any], model: Any, data_path: str | None = None) -> None:
        self.path, self.model = path, model
        self.vocabulary = Vocabulary(state["item_tokens"], state["item_titles"])
        # What reading the dataset takes; the weights in it are in the model already.
        self._state = {key: state[key] for key in ("dataset", "config")}
        self.dataset: str = state["dataset"]
        self._data_path = data_path
        self._users: UserHistories | None = None
        self._warned_of_cut = self._warned_of_no_noise = False

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | torch.device | None = None,
        model: str | type | None = None,
        settings: Mapping[str, Any] | None = None,
        data_path: str | None = None,
    ) -> Recommender:
        """Read a checkpoint; nothing else is needed, neither data nor network.

        Parameters
        ----------
        path : str or Path
            `NAME.pth` or `NAME.last.pth`; the best weights of either are used. A folder stands for its newest model.
        device : str or torch.device, optional
            By default a GPU where there is one.
        model : str or type, optional
            The class, or `FILE.py:CLASS`, of a model that is neither ours nor RecBole's.
        settings : mapping, optional
            Settings of inference that are to be others than in training, such as `reverse_sampler`.
        data_path : str, optional
            Folder of the dataset, for `users`; by default where it was in training.

        Raises
        ------
        UserError
            Where the checkpoint cannot be used, in one line.
        """
        path = checkpoint.newest(path)
        state = checkpoint.load_model(path)
        return cls(path, state, restore(path, state, device, model, settings), data_path)

    @property
    def item_field(self) -> str:
        """What the dataset calls its column of items."""
        return self._state["config"]["ITEM_ID_FIELD"]

    @property
    def users(self) -> UserHistories:
        """Histories of the users of the dataset, read when they are first asked for.

        Raises
        ------
        UserError
            Where the dataset is not there or is another one.
        """
        if self._users is None:
            self._users = read_users(self.path, self._state, self.model, self.vocabulary, self._data_path)
        return self._users

    def recommend(self, histories: Any, topk: int = 10, **options: Any) -> Recommendations:
        """Recommend the next items.

        Parameters
        ----------
        histories : sequence, mapping, array or DataFrame
            Items by their tokens, oldest first: one history, several, a mapping from users to histories, or a
            DataFrame of interactions with the dataset's columns of users and items. Of a history that is longer than
            the model's maximum the newest items count.
        topk : int
            Items of a list.
        **options
            See `Options`.

        Raises
        ------
        UserError
            For an unknown item, an empty history, or an option that cannot be used.
        """
        chosen = self._options(topk, options)
        config = self._state["config"]
        fields = {"user": "USER_ID_FIELD", "item": "ITEM_ID_FIELD", "time": "TIME_FIELD"}
        rows = labelled(histories, {name: config[field] for name, field in fields.items()})
        ids = [self.vocabulary.ids(history, chosen.skip_unknown) for history in rows.histories]
        return self.recommend_ids(rows.users, ids, chosen)

    def recommend_users(self, user_tokens: Iterable[Any], topk: int = 10, **options: Any) -> Recommendations:
        """Recommend to users of the dataset by all that they have interacted with, held-out interactions included.

        Parameters
        ----------
        user_tokens : iterable of str
        topk, **options
            As in `recommend`.

        Raises
        ------
        UserError
            For an unknown user, and where the dataset is not there.
        """
        chosen = self._options(topk, options)
        users = [str(user) for user in user_tokens]
        return self.recommend_ids(users, [self.users.of(user, chosen.skip_unknown) for user in users], chosen)

    def recommend_all(self, topk: int = 10, chunk_size: int = 4096, **options: Any) -> Iterator[Recommendations]:
        """Recommend to all users of the dataset, `chunk_size` of them at a time.

        Held are the model, all histories, the recommendations of one chunk, what the network needs for a batch of
        `batch_size` rows, and blocks of at most `blocks.LARGEST_BLOCK` scores (256 MB each; three of them where the
        model averages probabilities).

        Parameters
        ----------
        topk, **options
            As in `recommend`.
        chunk_size : int
            Users of a chunk; within it, histories of like length share a batch.

        Yields
        ------
        Recommendations
        """
        chosen = self._options(topk, options)
        _require("chunk_size", chunk_size, chunk_size >= 1, "be positive")
        for begin in range(0, len(self.users), chunk_size):
            rows = range(begin, min(begin + chunk_size, len(self.users)))
            yield self.recommend_ids(
                [self.users.tokens[row] for row in rows],
                [self.users.row(row, chosen.skip_unknown) for row in rows],
                chosen,
            )

    def _options(self, topk: int, options: Mapping[str, Any]) -> Options:
        chosen = Options(**{"topk": topk, **options})
        chosen.check(self.model, len(self.vocabulary))
        return chosen

    @torch.inference_mode()
    def recommend_ids(
        self,
        users: list[Any],
        histories: Sequence[np.ndarray],
        options: Options,
        targets: Sequence[int] | None = None,
    ) -> Recommendations:
        """Recommend to histories of internal ids, int64 [L] each; `users` are their labels.

        With `targets`, an id for each history, the answer says where that item stands among all.
        """
        self.warn_of_cut(histories)
        self._warn_of_no_noise(options)
        rows = [torch.from_numpy(history) for history in histories]
        # Batches of like length have little padding.
        order = sorted(range(len(rows)), key=lambda row: min(len(rows[row]), self.model.max_seq_length))
        size = max(1, options.batch_size // options.seeds_of(self.model))
        if not _diffuses(self.model):
            # Which scores the whole catalogue at once.
            size = max(1, min(size, LARGEST_BLOCK // self.model.n_items))
        batches = [order[begin : begin + size] for begin in range(0, len(order), size)]
        parts = [
            self._batch(
                [users[row] for row in batch],
                [rows[row] for row in batch],
                options,
                None if targets is None else torch.tensor([targets[row] for row in batch]),
            )
            for batch in batches
        ]
        if not parts:
            return self._empty(options.topk)
        return joined(parts).reordered(np.argsort(order))

    def warn_of_cut(self, histories: Sequence[np.ndarray]) -> None:
        """Warn once that the model does not read all of a history."""
        longest = self.model.max_seq_length
        if not self._warned_of_cut and any(len(history) > longest for history in histories):
            self._warned_of_cut = True
            logger.warning("histories are cut to their newest %d items, the model's maximum", longest)

    def _warn_of_no_noise(self, options: Options) -> None:
        """Warn once that samples which are all alike do not say how sure the model is."""
        seeds = options.seeds_of(self.model)
        if self._warned_of_no_noise or seeds == 1 or not _diffuses(self.model) or self.model.process.draws:
            return
        self._warned_of_no_noise = True
        name = type(self.model).__name__
        logger.warning("%s draws no noise, so that its %d samples are alike and say nothing of certainty", name, seeds)

    def _empty(self, topk: int) -> Recommendations:
        return Recommendations([], np.empty((0, topk), dtype=object), np.empty((0, topk), dtype=np.float32))

    def _batch(
        self, users: list[Any], histories: list[Tensor], options: Options, targets: Tensor | None
    ) -> Recommendations:
        device = next(self.model.parameters()).device
        targets = None if targets is None else targets.to(device)
        hidden = None
        if options.exclude_seen:
            hidden = torch.nn.utils.rnn.pad_sequence(histories, batch_first=True).to(device)
        if _diffuses(self.model):
            best, measured = self._draw(histories, hidden, options, targets)
        else:
            all_scores = self._full_scores(histories)
            best = top_items(
                lambda piece: all_scores[piece],
                len(histories),
                self.model.n_items,
                options.topk,
                hidden,
                targets=targets,
            )
            measured = None
        ids, numbers = best.items.cpu().numpy(), best.scores.float().cpu().numpy()
        missing = (ids == 0) | np.isneginf(numbers)
        if not np.isfinite(numbers[~missing]).all():
            raise UserError(f"{self.path}: the scores are NaN or infinite: {sampling.TOO_LARGE}")
        numbers[missing], ids[missing] = np.nan, 0
        tokens = self.vocabulary.tokens[ids]
        tokens[missing] = None
        titles = None if self.vocabulary.titles is None else self.vocabulary.titles[ids]
        figures = None
        if measured is not None:
            arrays = [figure.cpu().numpy() for figure in measured]
            for array in arrays:
                if array.shape == missing.shape:
                    array[missing] = np.nan
            figures = certainty.Certainty(*arrays)  # type: ignore[arg-type]
        ranks = None if best.target_ranks is None else best.target_ranks.cpu().numpy()
        return Recommendations(users, tokens, numbers, titles, figures, ranks)

    def _draw(
        self, histories: list[Tensor], hidden: Tensor | None, options: Options, targets: Tensor | None
    ) -> tuple[TopItems, certainty.Certainty | None]:
        model, samples = self.model, options.seeds_of(self.model)
        with sampling.overridden(model, options.inference_steps, options.seed):
            x_0 = sampling.draw_points(model, histories, samples, options.temperature, options.batch_size)
        best = top_items(
            lambda piece: model.score(x_0[:, piece]),
            len(histories),
            model.n_items,
            options.topk,
            hidden,
            targets=targets,
        )
        if samples == 1:
            return best, None
        tops = certainty.draw_tops(model, x_0, options.topk, hidden)
        if options.diversify:
            items = certainty.cover(tops)
            best = best._replace(items=items, scores=sampling.item_scores(model, x_0, items))
        return best, certainty.measure(model, x_0, best.items, tops)

    def _full_scores(self, histories: list[Tensor]) -> Tensor:
        """Scores [B, V] of a model of RecBole's, some of which read histories of full length only."""
        batch = sampling.batch(self.model, histories, self.model.max_seq_length)
        try:
            return self.model.full_sort_predict(batch).view(len(histories), -1)
        except KeyError as error:
            name = type(self.model).__name__
            problem = f"{name} reads {error} besides the history, so it cannot recommend from a history alone"
            raise UserError(f"{self.path}: {problem}; {WITH_DATA}") from error
