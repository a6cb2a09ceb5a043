"""The command `explore`: a page on this machine that asks saved models."""

from __future__ import annotations

import argparse
import threading
import webbrowser
from collections.abc import Sequence

from ..common.extras import require_extra
from ..errors import SettingError
from ..host.registry import require_recbole
from . import parsers

MOST_MODELS = 2


def run(argv: Sequence[str]) -> None:
    """`recbole-diffusion explore`, until it is interrupted.

    Raises
    ------
    UserError
    """
    parser = parsers.explore_parser()
    args = parser.read(argv)
    if len(args.checkpoint) > MOST_MODELS:
        raise SettingError("checkpoint", " ".join(args.checkpoint), must="be given once or twice")
    require_recbole()
    require_extra("explore", "the page")

    from ..explore.explorer import Explorer
    from ..explore.server import Server
    from .saved_model import load, warnings_on_stderr

    with warnings_on_stderr():
        each = [argparse.Namespace(**{**vars(args), "checkpoint": path}) for path in args.checkpoint]
        explorer = Explorer([load(parser, one, args.data_path) for one in each])
        with Server(explorer, args.host, args.port) as server:
            threading.Thread(target=explorer.read_users, daemon=True).start()
            print(f"{server.url}  (Ctrl-C ends it)", flush=True)
            if args.browser:
                webbrowser.open(server.url)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                print("ended", flush=True)
