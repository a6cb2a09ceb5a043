"""Novelty and diversity of the recommended lists, as metrics of RecBole's; `compat` makes them known to it."""

from __future__ import annotations

from typing import Any

import numpy as np
from recbole.evaluator.base_metric import AbstractMetric
from recbole.utils import EvaluatorType
from scipy.sparse import csr_matrix, diags

from ..common.blocks import row_pieces

# The name by which metrics ask for what `item_users` gives.
ITEM_USERS = "data.item_users"
# Entries of sparse rows that may be held at once: 100 MB.
LARGEST_BLOCK = 2**23


def item_users(dataset: Any) -> csr_matrix:
    """Which users have which item: 1.0 or no entry, [V, U] with the padding's row and column.

    Parameters
    ----------
    dataset : recbole Dataset
        The training part. A user's first interaction counts, which is no target of a sequential model and which
        RecBole's `data.count_items` leaves out; repeated interactions count once.
    """
    users = dataset.inter_matrix(form="csr").T.tocsr()
    users.data[:] = 1
    return users


class ListMetric(AbstractMetric):
    """A mean over the evaluated rows, of the first k items of each; bigger is better."""

    metric_type = EvaluatorType.RANKING
    metric_need = ("rec.items", ITEM_USERS)
    # The least k that it is defined for.
    shortest = 1

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.topk = config["topk"]

    def calculate_metric(self, dataobject: Any) -> dict[str, float]:
        """The metric at each k, by its name in a result."""
        items, users = dataobject.get("rec.items").numpy(), dataobject.get(ITEM_USERS)
        means = {k: self.mean(items[:, :k], users) for k in self.topk}
        return {f"{type(self).__name__.lower()}@{k}": round(mean, self.decimal_place) for k, mean in means.items()}

    def mean(self, items: np.ndarray, users: csr_matrix) -> float:
        """The metric of lists [n, k] of items, whose users are the rows of `users` [V, U]."""
        raise NotImplementedError


class Novelty(ListMetric):
    r"""How surprising the items are: their mean self-information, in bits.

    .. math::
        \mathrm{Novelty@k} = \frac{1}{|U| k} \sum_{u} \sum_{i \in L_u} -\log_2 \frac{\max(n_i, 1)}{N}

    N is the number of users in the training part, :math:`n_i` that of those who have item i; an item that none has is
    as novel as one that a single user has. From 0 (all users have all that is recommended) to :math:`\log_2 N`.

    Zhou et al., PNAS 2010 (self-information). Expected free discovery (Vargas and Castells, RecSys 2011, without
    discount by rank or relevance) is this plus a constant of the data, as it divides by interactions instead of N.
    """

    def mean(self, items: np.ndarray, users: csr_matrix) -> float:
        """See the class; `users` says who has an item."""
        everyone = np.count_nonzero(users.getnnz(axis=0))
        return float(np.log2(everyone / np.maximum(users.getnnz(axis=1), 1))[items].mean())


class IntraListDiversity(ListMetric):
    r"""How unlike the items of one list are: the mean distance of its pairs.

    .. math::
        \mathrm{IntraListDiversity@k} = \frac{1}{|U|} \sum_{u} \frac{2}{k (k - 1)} \sum_{i < j \in L_u} (1 - \cos(i, j))

    An item is the binary vector of the users who have it in the training part, so that the distance depends on no
    model; an item that none has is at distance 1 from every other. From 0 (the items have the same users) to 1 (no two
    items share a user).

    Ziegler et al., WWW 2005 (intra-list similarity); Vargas and Castells, RecSys 2011 (as a distance, without discount
    by rank or relevance).
    """

    # A single item has no pair.
    shortest = 2

    def mean(self, items: np.ndarray, users: csr_matrix) -> float:
        """See the class; the squared length of a list's summed unit vectors is its cosines' sum, an item's own too."""
        (rows, k), count = items.shape, users.getnnz(axis=1)
        vectors = diags(1 / np.sqrt(np.maximum(count, 1))) @ users
        cosines = 0.0
        for piece in row_pieces(rows, max(1, int(count[items].sum(axis=1).max())), LARGEST_BLOCK):
            own = items[piece]
            lists = csr_matrix((np.ones(own.size), own.ravel(), np.arange(0, own.size + 1, k)), (len(own), len(count)))
            cosines += float(np.square((lists @ vectors).data).sum()) - np.count_nonzero(count[own])
        return float(1 - cosines / (rows * k * (k - 1)))


METRICS = (Novelty, IntraListDiversity)
