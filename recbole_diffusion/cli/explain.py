"""The command `explain`: the reverse process of a saved model on one history."""

from __future__ import annotations

from collections.abc import Sequence

from ..host.registry import require_recbole
from . import parsers
from .arguments import tokens


def run(argv: Sequence[str]) -> None:
    """`recbole-diffusion explain`.

    Raises
    ------
    UserError
    """
    parser = parsers.explain_parser()
    args = parser.read(argv)
    require_recbole()

    import torch
    from tabulate import tabulate

    from ..inference import trajectory
    from ..inference.recommender import Options
    from .saved_model import load, warnings_on_stderr

    with warnings_on_stderr():
        recommender = load(parser, args)
        model, vocabulary = recommender.model, recommender.vocabulary
        chosen = Options(args.topk, temperature=args.temperature, inference_steps=args.inference_steps, seed=args.seed)
        chosen.check(model, len(vocabulary))
        history = vocabulary.ids(tokens(args.history), args.skip_unknown)
        recommender.warn_of_cut([history])
        ids = torch.from_numpy(history)
        hidden = None if args.include_seen else ids[None]
        traced = trajectory.trace(model, ids, args.topk, args.inference_steps, args.seed, args.temperature, hidden)
        names = vocabulary.names()
        trajectory.plot(args.output, traced, model, history, names)
    rows = []
    for timestep, items, distances in zip(traced.timestep, traced.items, traced.distance, strict=True):
        near = [f"{names[item]} ({distance:.3g})" for item, distance in zip(items, distances, strict=True)]
        rows.append(["x_0" if timestep is None else f"{timestep:.4g}", *near])
    headers = ["t", *(f"best {rank}" for rank in range(1, traced.items.shape[1] + 1))]
    print(tabulate(rows, headers=headers, disable_numparse=True))
    default, steps = len(model.timesteps), len(traced.timestep) - 1
    print(
        "Best items by x_t, in brackets how far its direction is from theirs (0 the same, 2 opposite). "
        f"{steps} reverse steps; recommending takes {default}."
    )
    print(f"picture: {args.output}")
