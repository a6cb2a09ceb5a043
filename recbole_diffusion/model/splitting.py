"""Item embeddings that several processes hold by parts: how they are looked up, scored in a loss, and ranked.

Each process holds the rows of some items, with their gradients and what the optimizer knows of them. Every process has
to take part in each look-up and in each loss; what it computes for others finds its way back in the gradients.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .losses import catalogue_cross_entropy
from .sharing import Processes, rows_of


class SplitEmbedding(nn.Module):
    """The rows of an embedding that this process holds; looked up, it gives what the whole one would.

    Parameters
    ----------
    whole : nn.Embedding
        With two rows or more for each process.
    processes : Processes

    Attributes
    ----------
    weight : Parameter [v, d]
        The rows of this process.
    rows : slice
        Which they are of all.
    num_embeddings, embedding_dim : int
        V and d of the whole.
    """

    def __init__(self, whole: nn.Embedding, processes: Processes) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = whole.num_embeddings, whole.embedding_dim
        self.padding_idx = whole.padding_idx
        self.processes = processes
        self.rows = self.rows_of(processes.rank)
        self.weight = nn.Parameter(whole.weight.detach()[self.rows].clone())

    def rows_of(self, rank: int) -> slice:
        """The rows of a process."""
        return rows_of(self.num_embeddings, rank, self.processes.number)[0]

    @property
    def elsewhere(self) -> int:
        """How many numbers of the table other processes hold."""
        return self.num_embeddings * self.embedding_dim - self.weight.numel()

    def forward(self, items: Tensor) -> Tensor:
        """Embeddings [..., d] of items [...], each distinct one of which travels once."""
        distinct, place = torch.unique(items, return_inverse=True)
        return F.embedding(place, self._fetched(distinct))

    def _fetched(self, items: Tensor) -> Tensor:
        """Embeddings [n, d] of items [n], ascending."""
        number = self.processes.number
        begins = torch.tensor([self.rows_of(rank).start for rank in range(1, number)], device=items.device)
        cuts = F.pad(torch.searchsorted(items, begins), (1, 1))
        cuts[-1] = len(items)
        sizes = cuts.diff()
        ones = [1] * number
        asked_sizes, given_sizes = self.processes.exchange(sizes, ones, ones).tolist(), sizes.tolist()
        asked = self.processes.exchange(items, given_sizes, asked_sizes) - self.rows.start
        padding = self.padding_idx if self.rows.start == 0 else None
        return self.processes.exchange(F.embedding(asked, self.weight, padding), asked_sizes, given_sizes)

    def first_candidate(self, first: int) -> int:
        """The first row of this process that is a candidate, where those of the whole from `first` on are."""
        return max(first - self.rows.start, 0)

    def inside(self, row: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """Of pairs of a row [m] and an item [m], those with an item of this process, by its number here."""
        here = (item >= self.rows.start) & (item < self.rows.stop)
        return row[here], item[here] - self.rows.start

    def every_row(self, rows: Tensor) -> tuple[Tensor, slice]:
        """The rows [N, ...] of all processes, of the rows [b, ...] that each has, and which are this one's."""
        sizes = self.processes.each(torch.tensor([len(rows)], device=rows.device)).flatten().tolist()
        begin = sum(sizes[: self.processes.rank])
        behind = sum(sizes) - begin - len(rows)
        padding = [0, 0] * (rows.dim() - 1) + [begin, behind]
        return self.processes.add(F.pad(rows, padding)), slice(begin, begin + len(rows))

    def cross_entropy(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, first_candidate: int
    ) -> Tensor:
        """As `catalogue_cross_entropy`, [b], of the rows x [b, d] of each process over the items of all.

        Parameters
        ----------
        x : Tensor [b, d]
        weight, bias : Tensor [v, d], and [v] or None
            Of the items of this process.
        target : int64 Tensor [b]
        first_candidate : int
            Of all items.
        """
        # As precise as the weight, as the plain loss has it.
        every_x, own = self.every_row(x.to(weight.dtype))
        every_target, _ = self.every_row(target)
        first = self.first_candidate(first_candidate)
        inside = every_target - self.rows.start
        return catalogue_cross_entropy(every_x, weight, bias, inside, first, processes=self.processes)[own]

    def log_sum(self, scores: Tensor) -> Tensor:
        """log Σ exp(score) [...] over the items of all processes, of the scores [..., v] of this one's."""
        return self.processes.each(scores.logsumexp(dim=-1)).logsumexp(dim=0)

    def best(self, scores: Tensor, k: int) -> Tensor:
        """The best k items [n, k] of all, by the scores [n, v] of this process's items."""
        own = scores.topk(min(k, scores.shape[1]))
        # A process that holds fewer items than k has nothing better.
        values = F.pad(own.values, (0, k - own.values.shape[1]), value=-torch.inf)
        items = F.pad(own.indices + self.rows.start, (0, k - own.values.shape[1]))
        values, items = (self.processes.each(part).transpose(0, 1).flatten(1) for part in (values, items))
        return items.gather(1, values.topk(k).indices)


def split_weights(model: nn.Module) -> dict[str, SplitEmbedding]:
    """The split tables of a model, by the name of their weight."""
    modules = model.named_modules()
    return {f"{name}.weight": module for name, module in modules if isinstance(module, SplitEmbedding)}
