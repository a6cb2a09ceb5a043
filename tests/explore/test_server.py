from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import pytest

from recbole_diffusion.errors import SettingError
from recbole_diffusion.explore.explorer import Explorer
from recbole_diffusion.explore.server import LARGEST_REQUEST, Server, is_own_name
from recbole_diffusion.inference import Recommender


@pytest.fixture
def server(diffurec: Recommender) -> Iterator[Server]:
    with Server(Explorer([diffurec]), "127.0.0.1", 0) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(
    server: Server, method: str, path: str, body: Any = None, raw: bool = False, **headers: str
) -> tuple[HTTPResponse, str]:
    connection = HTTPConnection(*server.server_address[:2], timeout=60)  # type: ignore[arg-type]
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body if raw or body is None else json.dumps(body), given)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response, text


def post(server: Server, path: str, body: Any) -> Any:
    response, text = ask(server, "POST", path, body, Content_Type="application/json; charset=utf-8")
    return response.status, json.loads(text)


def test_questions_are_answered(server: Server) -> None:
    status, answer = post(server, "/answer", {"history": ["50"], "topk": 3})
    assert status == 200 and len(answer["lists"][0]["items"]) == 3
    assert post(server, "/process", {"history": ["50"]})[1][0]["steps"] == 1
    assert post(server, "/csv", {"history": ["50"]})[1].startswith("model,rank,item,score,title\nDiffuRec,1,")
    assert json.loads(ask(server, "GET", "/search?text=star%20wars")[1])[0] == {"item": "50", "title": "Star Wars"}
    assert json.loads(ask(server, "GET", "/users?text=1")[1])["users"] == []
    assert json.loads(ask(server, "GET", "/ground?model=0")[1])["names"]


def test_the_page_needs_nothing_from_elsewhere(server: Server) -> None:
    for path, kind in (
        ("/", "html"),
        ("/explore.css", "css"),
        ("/explore.js", "javascript"),
        ("/plotly.js", "javascript"),
    ):
        response, text = ask(server, "GET", path)
        assert response.status == 200 and response.headers["Content-Type"] == f"text/{kind}; charset=utf-8"
        policy = response.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';") and "frame-ancestors 'none'" in policy
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        if path != "/plotly.js":
            assert "innerHTML" not in text and "{{" not in text
            # The namespace of drawings is a name, not an address that is looked up.
            assert set(re.findall(r"https?://[^\s\"']+", text)) <= {"http://www.w3.org/2000/svg"}


def test_mistakes_are_said_as_data(server: Server) -> None:
    for path, body, status, message in (
        ("/answer", {"history": ["no such item"]}, 400, "item 'no such item': not among"),
        ("/answer", [], 400, "a request must be a json object"),
        ("/answer", {"\ud800": 1}, 400, "? must be one of history"),
        ("/answer", {"history": ["50"], "settings": [{"temperature": 10**400}]}, 400, "temperature must be a finite"),
        ("/nothing", {}, 404, "/nothing: there is no such page"),
    ):
        got, answer = post(server, path, body)
        assert got == status and answer["problem"].startswith(message)
    deep = "[" * 100_000
    response, text = ask(server, "POST", "/answer", deep, raw=True, Content_Type="application/json")
    assert response.status == 400 and json.loads(text)["problem"].startswith("a question must be json")
    for path, message in (
        ("/ground?model=x", "model must be a whole number"),
        ("/../setup.cfg", "there is no such page"),
    ):
        response, text = ask(server, "GET", path)
        assert response.status in (400, 404) and message in text


def test_an_error_of_the_program_ends_one_answer_alone(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(server.explorer, "search", lambda text: 1 / 0)
        response, text = ask(server, "GET", "/search?text=a")
    assert response.status == 500 and json.loads(text)["problem"].startswith("ZeroDivisionError")
    assert "/search cannot be answered" in caplog.text
    assert ask(server, "GET", "/search?text=a")[0].status == 200


@pytest.mark.parametrize("path", ["/", "/search?text=a", "/plotly.js"])
def test_another_sites_name_for_this_machine_is_refused(server: Server, path: str) -> None:
    for host, status in (
        ("evil.example", 403),
        ("evil.example:80", 403),
        ("localhost:1", 200),
        ("127.0.0.1", 200),
        ("", 403),
    ):
        assert ask(server, "GET", path, Host=host)[0].status == status


def test_a_form_of_another_site_asks_nothing(server: Server) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        assert ask(server, "POST", "/answer", {"history": ["50"]}, Content_Type=kind)[0].status == 415
    assert ask(server, "OPTIONS", "/answer")[0].status == 501
    assert ask(server, "POST", "/answer", {}, Host="evil.example", Content_Type="application/json")[0].status == 403
    long = str(LARGEST_REQUEST + 1)
    assert ask(server, "POST", "/answer", Content_Type="application/json", Content_Length=long)[0].status == 413


@pytest.mark.parametrize(
    ("host", "own"),
    [
        *((host, True) for host in ("localhost", "LOCALHOST:80", "127.0.0.1:8350", "[::1]:80", "10.0.0.7", "box:1")),
        *(
            (host, False)
            for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "box2", "[::1", "@")
        ),
    ],
)
def test_own_names(host: str, own: bool) -> None:
    assert is_own_name(host, {"localhost", "box"}) is own


def test_where_it_cannot_listen_is_said(server: Server, diffurec: Recommender) -> None:
    port = server.server_address[1]
    for host, wrong, message in (
        ("127.0.0.1", port, f"port must be one that can be listened on; 0 takes any that is free .*, got {port}"),
        ("127.0.0.1", 70_000, "port must be from 0 to 65535, got 70000"),
        ("no such host", 0, "host must be an address or a name of this machine, got 'no such host'"),
        ("192.0.2.1", 0, "host must be an address or a name of this machine"),
    ):
        with pytest.raises(SettingError, match=message):
            Server(server.explorer, host, wrong)


def test_many_questions_at_once_do_not_mix(server: Server) -> None:
    settings = [{"inference_steps": steps, "noise_scale": 1.0} for steps in (1, 2, 3, 4)]
    alone = [
        post(server, "/answer", {"history": ["50"], "settings": [one]})[1]["lists"][0]["scores"] for one in settings
    ]
    assert len({str(scores) for scores in alone}) == 4
    found: dict[int, Any] = {}

    def question(number: int) -> None:
        asked = {"history": ["50"], "settings": [settings[number % 4]]}
        found[number] = post(server, "/answer", asked)[1]["lists"][0]["scores"]

    threads = [threading.Thread(target=question, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(12)] == alone * 3
