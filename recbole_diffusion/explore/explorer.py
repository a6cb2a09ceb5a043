"""What the page asks for: items, users, lists, the reverse process and the map, as plain data."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..errors import SettingError, UserError
from ..inference import sampling, trajectory
from ..inference.histories import UserHistories
from ..inference.recommender import Options, Recommender
from ..inference.results import Recommendations
from .embedding_map import EmbeddingMap, item_vectors
from .request import Request
from .search import ItemSearch, beginning_with
from .sliders import chosen, sliders_of

logger = logging.getLogger(__name__)

# Items noted of each state of the reverse process, where there are so many.
OF_STATE = 5


def require_same_items(first: Recommender, second: Recommender) -> None:
    """Refuse models whose lists cannot be compared.

    Raises
    ------
    SettingError
    """
    one, other = (set(each.vocabulary.tokens[1:]) for each in (first, second))
    if one != other:
        must = "be of a model that knows the items of the first, as two models of one dataset do"
        shared = f"({len(other):,} items, {len(one & other):,} of the first's {len(one):,})"
        raise SettingError("checkpoint", f"{second.path} {shared}", must=must)


class Explorer:
    """One model or two, and what the page asks them; it may be asked from several threads.

    Parameters
    ----------
    recommenders : sequence of Recommender

    Raises
    ------
    SettingError
        Where their items differ.
    """

    def __init__(self, recommenders: Sequence[Recommender]) -> None:
        self.recommenders = list(recommenders)
        for other in self.recommenders[1:]:
            require_same_items(self.recommenders[0], other)
        letters = "AB" if len(self.recommenders) > 1 else " "
        self.labels = [
            f"{letter} {type(one.model).__name__}".strip()
            for letter, one in zip(letters, self.recommenders, strict=True)
        ]
        titled = [one.vocabulary for one in self.recommenders if one.vocabulary.titles is not None]
        self.vocabulary = [*titled, self.recommenders[0].vocabulary][0]
        self._names = self.vocabulary.names()
        self._search = ItemSearch(self.vocabulary)
        vectors = [item_vectors(one.model) for one in self.recommenders]
        self._maps = [None if of_items is None else EmbeddingMap(of_items) for of_items in vectors]
        # A model holds the steps and the seed of the answer that it is at.
        self._lock = threading.Lock()
        self._users: UserHistories | None = None
        self._users_problem = ""

    def about(self) -> dict[str, Any]:
        """What the page has to know before it asks."""
        return {
            "dataset": self.recommenders[0].dataset,
            "items": len(self.vocabulary),
            "models": [self._about(number) for number in range(len(self.recommenders))],
        }

    def _about(self, number: int) -> dict[str, Any]:
        one = self.recommenders[number]
        sliders = sliders_of(one.model)
        return {
            "label": self.labels[number],
            "file": Path(*Path(one.path).parts[-3:]).as_posix(),
            "reads": int(one.model.max_seq_length),
            "sliders": [slider._asdict() for slider in sliders],
            # Of a model that draws.
            "seed": one.model.evaluation_noise.seed if "inference_seeds" in (each.key for each in sliders) else None,
            "map": self._maps[number] is not None,
        }

    # Items and users.

    def item(self, token: str) -> dict[str, str]:
        """An item's token and title.

        Raises
        ------
        UserError
            Where there is no such item.
        """
        return self._item(int(self.vocabulary.ids([token])[0]))

    def _item(self, number: int) -> dict[str, str]:
        return {"item": str(self.vocabulary.tokens[number]), "title": str(self._names[number])}

    def search(self, text: str) -> list[dict[str, str]]:
        """Items by a part of title or token."""
        return [self._item(number) for number in self._search.find(text)]

    def read_users(self) -> None:
        """Read the users of the first model's dataset, which takes seconds; until then there are none."""
        try:
            self._users = self.recommenders[0].users
        except UserError as error:
            self._users_problem = str(error)
        except Exception as error:
            logger.exception("the users cannot be read")
            self._users_problem = f"{type(error).__name__}: {error}"

    def users(self, text: str) -> dict[str, Any]:
        """Users whose token begins with a text; how many there are, None until they are read; why there are none."""
        if self._users is None:
            return {"users": [], "count": None, "problem": self._users_problem}
        return {"users": beginning_with(text, self._users.tokens), "count": len(self._users), "problem": ""}

    def user(self, token: str | None) -> dict[str, Any]:
        """The history of a user without its last item, which is held out; of any user where no token is given.

        Raises
        ------
        UserError
        """
        if self._users is None:
            raise UserError(self._users_problem or "the users of the dataset are still being read")
        token = str(np.random.default_rng().choice(self._users.tokens)) if token is None else token
        ids = self._users.of(token, skip_unknown=True)
        tokens = [str(one) for one in self.recommenders[0].vocabulary.tokens[ids]]
        # Without its only item a history would be empty.
        held_out = tokens.pop() if len(tokens) > 1 else None
        return {"user": token, "history": tokens, "held_out": held_out}

    # Lists.

    def answer(self, request: Request) -> dict[str, Any]:
        """The items that were asked about, and the list of each model; none for an empty history.

        Raises
        ------
        UserError
            For an item that the models do not know, or a setting that they cannot have.
        """
        models = range(len(self.recommenders)) if request.history else ()
        return {
            "history": [self.item(token) for token in request.history],
            "held_out": None if request.held_out is None else self.item(request.held_out),
            "lists": [self._list(number, request) for number in models],
        }

    def _list(self, number: int, request: Request) -> dict[str, Any]:
        begin = perf_counter()
        given = self._recommend(number, request)
        (record,) = given.records()
        asked = [] if request.held_out is None else [request.held_out]
        return {
            **record,
            "titles": [self.item(token)["title"] for token in record["items"]],
            "rank": None if given.target_ranks is None else int(given.target_ranks[0]),
            "candidates": len(self.vocabulary) - (0 if request.include_seen else len(set(request.history))),
            "spots": {
                name: self._spots(number, tokens)
                for name, tokens in (("history", request.history), ("items", record["items"]), ("held_out", asked))
            },
            "seconds": round(perf_counter() - begin, 4),
        }

    def _recommend(self, number: int, request: Request) -> Recommendations:
        one = self.recommenders[number]
        ids = one.vocabulary.ids(request.history)
        targets = None if request.held_out is None else one.vocabulary.ids([request.held_out]).tolist()
        with self._model(number, request) as options:
            return one.recommend_ids(["1"], [ids], options, targets)

    @contextmanager
    def _model(self, number: int, request: Request) -> Iterator[Options]:
        """The model with the settings of a request, for one thread at a time; gives its options."""
        model = self.recommenders[number].model
        settings = chosen(model, request.settings[number])
        options = Options(request.topk, exclude_seen=not request.include_seen, **settings.options)
        options.check(model, len(self.vocabulary))
        with self._lock, sampling.with_settings(model, settings.scales):
            yield options

    def csv(self, request: Request) -> str:
        """The lists, an item a row, as `recommend` writes them.

        Raises
        ------
        UserError
        """
        frames = []
        for number, label in enumerate(self.labels):
            frame = self._recommend(number, request).to_frame().drop(columns="user")
            frame.insert(0, "model", label)
            frames.append(frame)
        return pd.concat(frames).to_csv(index=False, float_format="%.7g", lineterminator="\n")

    # The reverse process, and the map.

    def process(self, request: Request) -> list[dict[str, Any] | None]:
        """The reverse process of each model, state by state; None for a model without one.

        Raises
        ------
        UserError
        """
        return [self._process(number, request) for number in range(len(self.recommenders))]

    @torch.inference_mode()
    def _process(self, number: int, request: Request) -> dict[str, Any] | None:
        one, on_map = self.recommenders[number], self._maps[number]
        if not sliders_of(one.model) or on_map is None:
            return None
        history = torch.from_numpy(one.vocabulary.ids(request.history))
        with self._model(number, request) as options:
            steps = options.inference_steps or len(one.model.timesteps)
            hidden = None if request.include_seen else history[None]
            traced = trajectory.trace(
                one.model,
                history,
                OF_STATE,
                # A single step would show nothing.
                steps if steps > 1 else None,
                options.seed,
                options.temperature,
                hidden,
            )
            seeds = options.seeds_of(one.model)
            draws: Any = traced.x[-1:]
            # Else the path ends in the only draw.
            if seeds > 1 or steps == 1:
                with sampling.overridden(one.model, options.inference_steps, options.seed):
                    x_0 = sampling.draw_points(one.model, [history], seeds, options.temperature, options.batch_size)
                draws = one.model.points(x_0)[:, 0]
        best = traced.items[-1]
        measured = trajectory.distances(traced, on_map.points, best)
        return {
            "steps": steps,
            "timesteps": traced.timestep,
            "states": [
                [
                    {**self.item(one.vocabulary.tokens[item]), "distance": float(far)}
                    for item, far in zip(*row, strict=True)
                ]
                for row in zip(traced.items, traced.distance, strict=True)
            ],
            "best": [self.item(one.vocabulary.tokens[item]) for item in best],
            "to_best": _rounded(measured.to_items),
            "median": _rounded(measured.median),
            "path": _rounded(on_map.place(traced.x)),
            "draws": _rounded(on_map.place(draws)),
        }

    def ground(self, number: int) -> dict[str, Any]:
        """Where a model's items lie: names and places of at most `embedding_map.MOST_POINTS` of them.

        Raises
        ------
        SettingError
            Where there is no such model, or it has no vectors of items.
        """
        on_map = self._maps[number] if 0 <= number < len(self._maps) else None
        if on_map is None:
            raise SettingError("model", number, must="be the number of a model that has vectors of items")
        items, tokens = on_map.shown(), self.recommenders[number].vocabulary.tokens
        return {
            "names": [self.item(tokens[item])["title"] for item in items],
            "spots": _rounded(on_map.spots[items]),
            "share": on_map.share,
        }

    def _spots(self, number: int, tokens: Sequence[str]) -> list[list[float]]:
        on_map = self._maps[number]
        if on_map is None or not tokens:
            return []
        return _rounded(on_map.spots[self.recommenders[number].vocabulary.ids(tokens)])


def _rounded(numbers: np.ndarray) -> Any:
    return np.round(np.asarray(numbers, dtype=np.float64), 4).tolist()
