from __future__ import annotations

import re
import socket
import threading
import webbrowser
from collections.abc import Callable
from urllib.request import urlopen

import pytest
from saved_models import Saved

from recbole_diffusion.cli.main import main
from recbole_diffusion.explore.server import Server


def test_the_page_is_served_until_an_interrupt(
    saved: Callable[..., Saved], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened, served = [], []

    def interrupted(server: Server) -> None:
        # As it is served: one request, then Ctrl-C.
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        served.append(urlopen(server.url, timeout=60).read().decode())
        thread.join()
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "serve_forever", interrupted)
    monkeypatch.setattr(webbrowser, "open", opened.append)
    words = ["explore", f"--checkpoint={saved('DiffuRec').path}", f"--checkpoint={saved('SASRec').path}", "--port=0"]
    capsys.readouterr()
    assert main(words) == main([*words, "--no-browser"]) == 0
    out, err = capsys.readouterr()
    first, ended, second, again = out.splitlines()
    url = re.fullmatch(r"(http://127\.0\.0\.1:\d+/)  \(Ctrl-C ends it\)", first)
    assert url is not None and opened == [url[1]] and ended == again == "ended" and second != first and err == ""
    assert len(served) == 2 and "A DiffuRec" in served[0] and "B SASRec" in served[0]


def test_mistakes_take_one_line(saved: Callable[..., Saved], capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = f"--checkpoint={saved('DiffuRec').path}"
    other = f"--checkpoint={saved('DiffuRec', user_inter_num_interval='[0,25]').path}"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for flags, message in (
            ([], "the following arguments are required: --checkpoint"),
            (["--checkpoint=nowhere.pth"], "nowhere.pth: "),
            ([checkpoint] * 3, "checkpoint must be given once or twice"),
            ([checkpoint, other], "checkpoint must be of a model that knows the items of the first"),
            ([checkpoint, f"--port={port}"], "port must be one that can be listened on; 0 takes any that is free"),
            ([checkpoint, "--port=x"], "port must be a whole number, got 'x'"),
            ([checkpoint, "--host=no.such.host.invalid"], "host must be an address or a name of this machine"),
            ([checkpoint, "--hidden_size=8"], "hidden_size must be one of the settings that may change"),
        ):
            capsys.readouterr()
            assert main(["explore", "--no_browser", *flags]) == 2, flags
            out, err = capsys.readouterr()
            assert out == "" and len(err.splitlines()) == 1 and err.startswith(f"error: {message}"), err
