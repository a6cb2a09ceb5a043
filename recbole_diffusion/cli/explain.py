"""The command `explain`: the reverse process of a saved model on one history."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tabulate import tabulate

from ..inference import trajectory
from ..inference.recommender import Options
from .arguments import Parser, add_model, load, tokens, told

EXAMPLES = """\
examples:
  recbole-diffusion explain --checkpoint saved/M.pth --history 50,172,1
  recbole-diffusion explain --checkpoint saved/M.pth --history 50,172,1 --steps 32 --output why.png
"""


def parser() -> Parser:
    """The flags."""
    made = Parser("explain", "Follow the reverse process on one history: what x_t is near to at each step.", EXAMPLES)
    add_model(made)
    made.add_argument("--history", required=True, metavar="ITEMS", help="items by their tokens, oldest first")
    made.add_argument("--topk", type=int, default=3, metavar="K", help="items shown of each step (default 3)")
    made.add_argument("--include_seen", action="store_true", help="items of the history may be shown too")
    made.add_argument("--output", default="trajectory.png", metavar="FILE", help="the picture (default trajectory.png)")
    return made


def run(argv: Sequence[str]) -> None:
    """Do what the command line says.

    Raises
    ------
    UserError
    """
    args = parser().read(argv)
    with told():
        recommender = load(args)
        model, vocabulary = recommender.model, recommender.vocabulary
        Options(args.topk, noise_scale=args.noise_scale).check(model, len(vocabulary))
        history = vocabulary.ids(tokens(args.history), args.skip_unknown)
        recommender.tell_of_cut([history])
        ids = torch.from_numpy(history)
        hidden = None if args.include_seen else ids[None]
        traced = trajectory.trace(model, ids, args.topk, args.steps, args.seed, args.noise_scale, hidden)
        names = vocabulary.names()
        trajectory.draw(args.output, traced, model, history, names)
    rows = []
    for timestep, items, distances in zip(traced.timestep, traced.items, traced.distance, strict=True):
        near = [f"{names[item]} ({distance:.3g})" for item, distance in zip(items, distances, strict=True)]
        rows.append(["x_0" if timestep is None else f"{timestep:.4g}", *near])
    print(tabulate(rows, headers=["t", *(f"best {rank}" for rank in range(1, args.topk + 1))], disable_numparse=True))
    default, steps = len(model.timesteps), len(traced.timestep) - 1
    print(
        "Best items by x_t, in brackets how far its direction is from theirs (0 the same, 2 opposite). "
        f"{steps} reverse steps; recommending takes {default}."
    )
    print(f"picture: {args.output}")
