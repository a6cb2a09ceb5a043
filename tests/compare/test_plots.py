from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from recbole_diffusion.compare.plots import PLOTS, Look, plot_all

NAMES = [
    *("DiffuRec", "DiffuRec-off", "DiffRec(embedding_noise=0.01)", "DiffRec(embedding_noise=0.01)-off"),
    *("SASRec", "BERT4Rec", "DiffuRec(noise_scale=0.1)-off", "Pop"),
]


def made(names: list[str] = NAMES, seeds: int = 2) -> dict[str, Any]:
    """Results of made-up runs."""
    models = {
        name: {"mean": 0.09 - 0.01 * i, "low": 0.08 - 0.01 * i, "high": 0.1 - 0.01 * i} for i, name in enumerate(names)
    }
    groups = [
        {"group": title, "users": 12345, "models": models} for title in ("1 to 5", "6 to 9", "10 to 20", "21 to 737")
    ]
    spread = {"mean": 0.05, "std": 0.01 if seeds > 1 else None}
    return {
        "rows": [{"name": name} for name in names],
        "seeds": list(range(seeds)),
        "history_in_ranking": "in",
        "valid_metric": "NDCG@10",
        "valid_metric_bigger": True,
        "estimates": {"ndcg@10": models, "hit@10": models},
        "noise": [
            {
                "first": name,
                "second": f"{name}-off",
                "difference": 0.001 * i,
                "low": 0.001 * i - 0.01,
                "high": 0.001 * i + 0.01,
                "off_mean": 0.05,
            }
            for i, name in enumerate(names)
        ],
        "by_length": groups,
        "by_popularity": groups[:2],
        "by_steps": [
            {"name": name, "steps": steps, "seconds": {"mean": 0.3 * steps}, "metrics": {"ndcg@10": spread}}
            for name in names[:2]
            for steps in (1, 2, 4, 8, 16, 32)
        ],
        "runs": [
            {"name": name, "epochs": [{"epoch": epoch, "valid_score": epoch * (9 - epoch)} for epoch in range(9)]}
            for name in names
            for _ in range(seeds)
        ],
    }


def texts(figure: Any) -> list[Text]:
    """The texts that a picture shows."""
    FigureCanvasAgg(figure).draw()
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("name", PLOTS)
def test_no_text_covers_another_or_is_cut_off(name: str, seeds: int) -> None:
    figure = PLOTS[name][1](made(seeds=seeds), Look(NAMES))
    assert figure is not None
    shown = texts(figure)
    # Of ticks beyond the end of an axis matplotlib keeps the labels, without drawing them.
    drawn = [(text, text.get_window_extent()) for text in shown if text.get_window_extent().overlaps(figure.bbox)]
    ticks = {label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in _outside(axis)}
    drawn = [(text, box) for text, box in drawn if text not in ticks]
    for (one, first), (two, second) in combinations(drawn, 2):
        assert not first.overlaps(second), (one.get_text(), two.get_text())
    for text, box in drawn:
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text.get_text()
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, text.get_text()


def _outside(axis: Any) -> set[Text]:
    low, high = sorted(axis.get_view_interval())
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    places = [*axis.get_majorticklocs(), *axis.get_minorticklocs()]
    return {tick.label1 for tick, at in zip(ticks, places, strict=False) if not low <= at <= high}


@pytest.mark.parametrize("name", PLOTS)
def test_axes_are_labelled(name: str) -> None:
    figure = PLOTS[name][1](made(), Look(NAMES))
    assert figure is not None
    for axes in figure.axes:
        assert axes.get_xlabel()
        assert axes.get_ylabel() or name in ("metrics", "noise")


def test_every_model_is_named_in_every_picture() -> None:
    for name, (_, plot) in PLOTS.items():
        figure = plot(made(), Look(NAMES))
        shown = {text.get_text() for text in texts(figure)}
        assert set(NAMES[:2] if name == "by_steps" else NAMES) <= shown


@pytest.mark.parametrize("bigger", [True, False])
def test_the_best_epoch_is_marked(bigger: bool) -> None:
    # The scores rise to 20 at epochs 4 and 5, and fall to 8 at epoch 8; the last of equals is the best.
    figure = PLOTS["learning_curves"][1]({**made(seeds=1), "valid_metric_bigger": bigger}, Look(NAMES))
    assert figure is not None
    assert [line.get_markevery() for line in figure.axes[0].lines] == [[5 if bigger else 0]] * len(NAMES)


def test_files_are_written_where_there_is_something_to_show(tmp_path: Path) -> None:
    (tmp_path / "by_steps.png").touch()
    files = plot_all({**made(), "by_steps": []}, tmp_path)
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {path.name for path in files.values()} == {f"{name}.png" for name in PLOTS} - {"by_steps.png"}
    nothing = {"estimates": {}, "by_length": [], "by_popularity": [], "by_steps": [], "runs": [], "noise": []}
    assert plot_all({**made(), **nothing}, tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


def test_the_noise_under_both_rankings_is_in_per_cent_of_the_row_without() -> None:
    pair = {"first": "DiffuRec", "second": "DiffuRec-off", "difference": 0.01, "low": -0.01, "high": 0.03}
    pair["off_mean"] = 0.05
    results = {**made(), "noise": [pair], "history_in_ranking": "both"}
    results["history_out"] = {"noise": [{**pair, "difference": -0.005}]}
    figure = PLOTS["noise"][1](results, Look(NAMES))
    assert figure is not None
    shown = {text.get_text() for text in texts(figure)}
    assert {"history in", "history out", "DiffuRec"} <= shown
    (inside, outside) = [container.lines[0].get_xdata() for container in figure.axes[0].containers]
    assert inside == pytest.approx([20.0]) and outside == pytest.approx([-10.0])


def test_with_controls_a_line_of_the_noise_names_both_rows() -> None:
    results = made(names=NAMES[:2])
    own, other = results["noise"]
    results["noise"] = [own, {**other, "first": own["first"], "second": "more dropout"}]
    figure = PLOTS["noise"][1](results, Look(NAMES))
    assert figure is not None
    shown = {text.get_text() for text in texts(figure)}
    assert {"DiffuRec against DiffuRec-off", "DiffuRec against more dropout"} <= shown
    (drawn,) = figure.axes[0].containers
    assert drawn.lines[0].get_xdata() == pytest.approx([0.0, 2.0])


def test_no_two_of_many_models_look_alike() -> None:
    names = [str(number) for number in range(90)]
    looks = [Look(names)(name) for name in names]
    assert len({(look["color"], look["marker"]) for look in looks}) == len(names)
