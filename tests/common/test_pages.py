from __future__ import annotations

import json

from recbole_diffusion.common.pages import code, embedded, filled, style


def test_no_text_ends_the_element_that_it_stands_in() -> None:
    text = "</script><script>alert(1)</script><!-- "
    made = embedded({"name": text, text: [float("nan"), float("inf"), (1.5, None)]})
    assert "<" not in made
    assert json.loads(made) == {"name": text, text: [None, None, [1.5, None]]}


def test_what_is_put_into_a_template_is_not_searched_for_places() -> None:
    assert filled("<b>{{first}}</b>{{second}}", {"first": "{{second}}", "second": "2"}) == "<b>{{second}}</b>2"


def test_a_page_has_what_is_shared_before_its_own() -> None:
    report = "recbole_diffusion.compare"
    assert code(report, "main.js").index("function h(") < code(report, "main.js").index('find("filter")')
    assert style(report, "report.css").index(":root") < style(report, "report.css").index("#controls")
