"""The command `evaluate`: a saved model, or those of a comparison, tested again without training."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..common.extras import require_extra
from ..errors import SettingError
from ..host.registry import require_recbole
from . import parsers


def run(argv: Sequence[str]) -> None:
    """`recbole-diffusion evaluate`.

    Raises
    ------
    UserError
    """
    args = parsers.evaluate_parser().read(argv)
    require_recbole()
    if Path(args.checkpoint, "runs").is_dir():
        _evaluate_comparison(args, argv)
    else:
        _evaluate_one(args)


def _evaluate_one(args: argparse.Namespace) -> None:
    from ..common.files import write_json
    from ..inference.testing import evaluate

    done, config = evaluate(args.checkpoint, args.settings, args.model, args.ranks)
    content = _as_plain(args, done, config)
    if args.output == "-":
        print(json.dumps(content, indent=1, ensure_ascii=False))
        return
    if args.output is not None:
        write_json(Path(args.output), content)
    print(done.table())
    for name in ("ranks", "output"):
        if getattr(args, name) is not None:
            print(f"{name}: {getattr(args, name)}")


def _as_plain(args: argparse.Namespace, done: Any, config: Any) -> dict[str, Any]:
    """What a json file says of a test: the model, the settings that it was tested with, and the metrics by ranking."""
    from ..evaluation.protocols import apart

    keys = ("eval_args", "history_in_ranking", *args.settings)
    parts = {"valid": "best_valid_result", "test": "test_result"}
    return {
        "checkpoint": str(done.model_file),
        **{key: config[key] for key in ("model", "dataset", "seed")},
        "settings": {key: value for key, value in config.plain().items() if key in keys},
        **{part: apart(done.result[name], done.history_in_ranking) for part, name in parts.items()},
        "seconds": done.seconds,
    }


def _evaluate_comparison(args: argparse.Namespace, argv: Sequence[str]) -> None:
    require_extra("compare", "a comparison")
    from ..compare.reevaluate import reevaluate
    from .compare import COMMAND, tell

    if args.ranks is not None:
        raise SettingError("ranks", args.ranks, must="be left out: of a comparison the ranks stand beside each run")
    command = [*COMMAND, "evaluate", *argv]
    plan = reevaluate(Path(args.checkpoint), args.output, args.settings, args.model, command)
    tell(plan, command)
