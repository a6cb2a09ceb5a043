"""The page over HTTP, for this machine alone unless the user says otherwise.

A site that the reader has open elsewhere must not reach the models: answers are for requests of this page's own origin,
under a name that is this machine's, and the page may load and ask nothing from elsewhere.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import logging
import socket
import socketserver
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from plotly.offline import get_plotlyjs

from ..common import pages
from ..errors import SettingError, UserError
from .explorer import Explorer
from .request import read_request

logger = logging.getLogger(__name__)

CODE = ("state.js", "build.js", "lists.js", "process.js", "main.js")
LARGEST_REQUEST = 2**20
JSON = "application/json"
HEADERS = {
    # The library of the charts sets styles of single elements; scripts come from this server's files alone.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "connect-src 'self'; img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Content(NamedTuple):
    """What a file of the page holds."""

    kind: str
    make: Callable[[], str]


def contents(explorer: Explorer) -> dict[str, Content]:
    """The files of the page, by their paths."""
    data = {"data": pages.embedded(explorer.about())}
    return {
        "/": Content("text/html", lambda: pages.filled(pages.web_text(__package__, "explore.html"), data)),
        "/explore.css": Content("text/css", lambda: pages.style(__package__, "explore.css")),
        "/explore.js": Content("text/javascript", lambda: pages.code(__package__, *CODE)),
        "/plotly.js": Content("text/javascript", get_plotlyjs),
    }


def is_own_name(host: str, names: set[str]) -> bool:
    """Whether a Host header names this machine: by one of the names, or by an address.

    A page of another site that has its own name lead here (DNS rebinding) sends that name.
    """
    try:
        name = (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in names
    return True


class Server(socketserver.ThreadingTCPServer):
    """Serves the page of an explorer.

    Parameters
    ----------
    explorer : Explorer
    host : str
        The address or name to listen on.
    port : int
        0 for any that is free.

    Raises
    ------
    SettingError
        Where it cannot listen there.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, explorer: Explorer, host: str, port: int) -> None:
        self.explorer, self.contents = explorer, contents(explorer)
        self.names = {"localhost", host.lower(), socket.gethostname().lower()}
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), Handler)
        except (socket.gaierror, UnicodeError) as error:
            raise SettingError("host", host, must="be an address or a name of this machine") from error
        except OverflowError as error:
            raise SettingError("port", port, must="be from 0 to 65535") from error
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise SettingError("host", host, must="be an address or a name of this machine") from error
            must = f"be one that can be listened on; 0 takes any that is free ({error.strerror})"
            raise SettingError("port", port, must=must) from error

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = str(self.server_address[0]), self.server_address[1]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            logger.exception("a connection failed")


class Handler(BaseHTTPRequestHandler):
    """Answers what comes over one connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "recbole-diffusion", ""
    # Seconds after which a connection that says nothing is closed.
    timeout = 60
    # Else the body waits for the browser to acknowledge the headers, 40 ms.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """A file of the page, or a question whose answer depends on no choice."""
        address = urlsplit(self.path)
        if address.path in self.server.contents:
            content = self.server.contents[address.path]
            self._guarded(lambda: (content.kind, content.make()))
            return
        given = {key: values[-1] for key, values in parse_qs(address.query, keep_blank_values=True).items()}
        explorer = self.server.explorer
        questions: dict[str, Callable[[], Any]] = {
            "/search": lambda: explorer.search(given.get("text", "")),
            "/users": lambda: explorer.users(given.get("text", "")),
            "/user": lambda: explorer.user(given.get("user")),
            "/ground": lambda: explorer.ground(_whole("model", given.get("model", ""))),
        }
        self._answer(questions.get(address.path))

    def do_POST(self) -> None:
        """A question about a history."""
        explorer = self.server.explorer
        questions: dict[str, Callable[[Any], Any]] = {
            "/answer": explorer.answer,
            "/process": explorer.process,
            "/csv": explorer.csv,
        }
        # A form of another site cannot send this type without leave, which nobody gives.
        if self.headers.get_content_type() != JSON:
            self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"a question must be {JSON}")
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LARGEST_REQUEST:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a question must have at most {LARGEST_REQUEST:,} bytes")
            return
        body = self.rfile.read(int(length))
        models = len(explorer.recommenders)
        if self.path in questions:
            self._answer(lambda: questions[self.path](read_request(_read_json(body), models)))
        else:
            self._answer(None)

    def _answer(self, question: Callable[[], Any] | None) -> None:
        if question is None:
            self._refuse(HTTPStatus.NOT_FOUND, f"{urlsplit(self.path).path}: there is no such page")
            return
        self._guarded(lambda: (JSON, pages.as_json(question())))

    def _guarded(self, make: Callable[[], tuple[str, str]]) -> None:
        """Send what is made, or why it cannot be."""
        host = self.headers.get("Host", "")
        if not is_own_name(host, self.server.names):
            self._refuse(HTTPStatus.FORBIDDEN, "the Host header must be a name or an address of this machine")
            return
        try:
            kind, text = make()
        except UserError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except Exception as error:
            logger.exception("%s cannot be answered", urlsplit(self.path).path)
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}")
        else:
            self._send(HTTPStatus.OK, kind, text)

    def _refuse(self, status: HTTPStatus, problem: str) -> None:
        # What was sent with the request may not have been read.
        self.close_connection = True
        self._send(status, JSON, pages.as_json({"problem": problem}))

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        # Json may hold halves of surrogate pairs, which no bytes stand for.
        body = text.encode(errors="replace")
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""


def _read_json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UserError(f"a question must be json ({error})") from error


def _whole(key: str, text: str) -> int:
    if not text.isdecimal():
        raise SettingError(key, text, must="be a whole number")
    return int(text)
