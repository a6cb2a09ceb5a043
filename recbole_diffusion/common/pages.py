"""What the pages for browsers share: `web/`, with their style and the code that makes elements, tables and charts."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any


def web_text(package: str, name: str) -> str:
    """A file of the folder `web` of a package of ours."""
    return (files(package) / "web" / name).read_text(encoding="utf-8")


def style(package: str, name: str) -> str:
    """The style that all pages share, and a page's own."""
    return web_text(__package__, "page.css") + web_text(package, name)


def code(package: str, *names: str) -> str:
    """The code that all pages share, and a page's own files; strings that it shows are text, never markup."""
    return "\n".join(['"use strict";', web_text(__package__, "dom.js"), *(web_text(package, name) for name in names)])


def filled(template: str, parts: Mapping[str, str]) -> str:
    """A template with a part for each `{{name}}`, in one pass: what is put in is not searched for names again."""
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], template)


def embedded(data: Any) -> str:
    """Plain data as json that may stand inside a script element: nothing in it ends the element or opens another."""
    return as_json(data).replace("<", r"\u003c")


def as_json(data: Any) -> str:
    """Plain data as json, with null for what json has no number for, such as the loss of a run that failed."""
    return json.dumps(_finite(data), ensure_ascii=False, allow_nan=False)


def _finite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
