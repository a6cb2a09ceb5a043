"""RecBole's SASRec with the items' embeddings drawn wider, to see whether the start alone makes the difference."""

import torch
from recbole.model.sequential_recommender import SASRec


class SASRecWide(SASRec):
    """SASRec whose item embeddings start from N(0, 0.3²) instead of N(0, 0.02²); the padding's stays as it is."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        with torch.no_grad():
            self.item_embedding.weight[1:].normal_(0, 0.3)
