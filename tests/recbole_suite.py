"""A pytest plugin that runs RecBole's own tests against this package.

In a checkout of RecBole v1.2.1, with this folder on PYTHONPATH:
`python -m pytest -p recbole_suite tests/data tests/metrics`, and `tests/evaluation_setting` from within that folder.
`test_filter_nan_user_or_item` fails: rows without an id are refused, unless `drop_incomplete_rows` is set.
"""

from __future__ import annotations

import sys

from recbole_diffusion import quick_start
from recbole_diffusion.host import compat

compat.apply()
# RecBole's own needs ray, and trains with RecBole's trainer.
sys.modules["recbole.quick_start"] = quick_start
