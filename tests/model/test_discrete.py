from __future__ import annotations

import pytest
from stand_in import settings

from recbole_diffusion.errors import SettingError
from recbole_diffusion.model.discrete import DiscreteRecommender


def test_a_loss_that_it_does_not_compute_is_refused() -> None:
    config = settings("DiscreteRecommender", kind="DiscreteRecommender", loss_type="BPR")
    with pytest.raises(SettingError, match=r"^loss_type must be CE, got 'BPR'$"):
        DiscreteRecommender.check_settings(config)
