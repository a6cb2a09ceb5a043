from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from saved_models import Saved
from scipy.stats import spearmanr

from benchmarks import certainty as study
from recbole_diffusion.errors import UserError
from recbole_diffusion.inference import Recommender
from recbole_diffusion.inference.recommender import Options


def test_what_is_held_out_scores_as_the_test(saved: Callable[..., Saved], diffurec: Recommender) -> None:
    part = study.held_out(diffurec)
    outcome = study.ask(diffurec, part, Options(10, exclude_seen=False), [1, 2]).ways[1, False]
    assert round(outcome.hit.mean(), 4) == saved("DiffuRec").test_result["hit@10"]
    assert round(outcome.ndcg.mean(), 4) == saved("DiffuRec").test_result["ndcg@10"]
    some = study.held_out(diffurec, most=20)
    assert len(some.users) == len(set(some.users)) == 20 and set(some.users) < set(part.users)


@pytest.mark.parametrize("model", ["DiffuRec", "DiffRec", "PreferGrow"])
def test_the_ways_recommend_as_the_recommender(loaded: Callable[[str], Recommender], model: str) -> None:
    recommender = loaded(model)
    part = study.held_out(recommender, most=30)
    asked = Options(10, exclude_seen=False, inference_steps=3, seed=4, temperature=20.0, batch_size=64)
    drawn = study.ask(recommender, part, asked, [1, 2, 5])
    assert list(drawn.ways) == [(1, False), (2, False), (2, True), (5, False), (5, True)]
    for (number, cover), outcome in drawn.ways.items():
        options = replace(asked, inference_seeds=number, diversify=cover)
        given = recommender.recommend_ids(part.users, part.histories, options)
        assert (recommender.vocabulary.tokens[outcome.items] == given.items).mean() > 0.99
    assert given.certainty is not None
    np.testing.assert_allclose(drawn.distance, given.certainty.distance, rtol=1e-3)
    np.testing.assert_allclose(drawn.entropy, given.certainty.entropy, atol=1e-6)


def test_a_change_is_measured_user_by_user(diffurec: Recommender) -> None:
    items = np.arange(1, 31).reshape(3, 10)
    ndcg = np.array([0.0, 0.5, 1.0])
    ways = {(1, False): study.Outcome(items, ndcg, ndcg), (2, False): study.Outcome(items, ndcg - 0.25, ndcg)}
    first, second = study.trade(diffurec, {1.0: study.Drawn(ways, {}, ndcg, ndcg, ndcg, ndcg)})
    assert (first["change"], first["error of the change"]) == (0, 0)
    # All users lose the same, so that nothing is uncertain about it, however much the users differ.
    assert (second["change"], second["error of the change"]) == (-0.25, 0)


def test_list_diversity_is_the_mean_over_pairs() -> None:
    embeddings = torch.randn(30, 8, generator=torch.Generator().manual_seed(1))
    items = np.array([[1, 2, 3], [4, 9, 29]])
    pairs = [(row[i], row[j]) for row in items for i, j in ((0, 1), (0, 2), (1, 2))]
    cosines = [torch.cosine_similarity(embeddings[a], embeddings[b], dim=0).item() for a, b in pairs]
    assert study.list_diversity(items, embeddings) == pytest.approx(1 - np.mean(cosines), abs=1e-6)
    assert study.list_diversity(np.array([[5, 5, 5]]), embeddings) == pytest.approx(0, abs=1e-6)
    assert study.coverage(items, 24) == 6 / 24


def test_correlations_are_spearmans_and_a_common_cause_is_taken_off() -> None:
    random = np.random.default_rng(2)
    cause = random.integers(3, 40, 2000)
    figure, other = (np.exp(cause / 8 + random.standard_normal(2000)) for _ in range(2))
    part = study.HeldOut([], [np.zeros(length) for length in cause], cause)
    outcome = study.Outcome(np.zeros((2000, 1)), other, other)
    row = study.correlations(part, 1.0, study.Drawn({}, {}, figure, np.zeros(2000), cause / 1.0, -figure), outcome)
    expected = spearmanr(figure, other)
    assert row["ρ(distance, NDCG@10)"] == f"{expected.statistic:.3f} (p {expected.pvalue:.2g})"
    assert expected.statistic > 0.5 and abs(float(row["ρ(distance, NDCG@10) at equal length"].split()[0])) < 0.1
    assert row["ρ(entropy, NDCG@10)"] == ""
    assert row["ρ(margin, NDCG@10)"] == f"{-expected.statistic:.3f} (p {expected.pvalue:.2g})"
    # Here the score's entropy is the common cause.
    assert row["ρ(distance, NDCG@10) at equal score entropy"] == row["ρ(distance, NDCG@10) at equal length"]
    assert abs(float(row["ρ(distance, NDCG@10) at equal score entropy"].split()[0])) < 0.1


def test_what_a_score_says_by_itself() -> None:
    share = torch.tensor([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]]).clamp(min=1e-30)
    entropy, margin = study.score_certainty(share.log() + torch.tensor([[3.0], [-2.0]]))
    assert entropy.tolist() == pytest.approx([1.5 * np.log(2), 0.0], abs=1e-6)
    assert margin.tolist() == pytest.approx([np.log(2), 30 * np.log(10)], rel=1e-5)


def test_deciles_are_of_equal_size_and_in_order() -> None:
    random = np.random.default_rng(0)
    distance = random.permutation(np.repeat(np.arange(20.0), 5))
    table = study.deciles({"distance": distance, "ndcg": -distance}, by="distance", error_of="ndcg")
    assert table["users"].tolist() == [10] * 10 and table["decile"].tolist() == list(range(1, 11))
    assert table["distance"].tolist() == [0.5 + 2 * number for number in range(10)]
    assert table["ndcg"].tolist() == (-table["distance"]).tolist()
    assert table["error"].tolist() == pytest.approx([pd.Series([0.0] * 5 + [1.0] * 5).sem()] * 10)


def test_calibration_by_hand() -> None:
    # Two users a decile, of 0.05, 0.1, ... 0.5; the surest three hit.
    mixed = np.random.default_rng(0).permutation(20)
    predicted = np.repeat(np.arange(1, 11) / 20, 2)[mixed]
    hit = np.array([0.0] * 17 + [1.0] * 3)[mixed]
    row, table = study.calibration(study.Prediction(predicted, hit, np.arange(20.0)))
    assert table["predicted"].tolist() == pytest.approx((np.arange(1, 11) / 20).tolist())
    assert table["hit"].tolist() == [0] * 8 + [0.5, 1] and table["users"].tolist() == [2] * 10
    assert table["error"].tolist() == [0] * 8 + [0.5, 0]
    assert (row["predicted"], row["Hit@10"]) == pytest.approx((0.275, 0.15))
    # Squares of the users' differences sum to 2.025.
    assert (row["difference"], row["its error"]) == pytest.approx((0.125, ((2.025 - 20 * 0.125**2) / 19 / 20) ** 0.5))
    assert row["confidence"] == "neither shown"
    # Off by 0.05, ... 0.4, then 0.05 and 0.5.
    assert row["ECE"] == pytest.approx((1.8 + 0.05 + 0.5) / 10)
    assert (row["log loss"], row["error of the log loss"]) == pytest.approx((9.5, 1.75**0.5))
    for every, said in ((0.0, "overconfident"), (1.0, "underconfident")):
        row, _ = study.calibration(study.Prediction(predicted, np.full(20, every), hit))
        assert row["confidence"] == said
    # Without a hit among 20 users whose chance is 0.02 nothing is shown, though they hardly differ.
    row, _ = study.calibration(study.Prediction(predicted / 1000 + 0.02, np.zeros(20), hit))
    assert row["confidence"] == "neither shown" and row["difference"] > 100 * row["its error"]


def test_a_calibrated_model_has_the_ece_by_chance() -> None:
    random = np.random.default_rng(3)
    predicted = random.uniform(0.02, 0.3, 500)
    rows = [
        study.calibration(study.Prediction(predicted, (random.random(500) < predicted) * 1.0, predicted))[0]
        for _ in range(200)
    ]
    assert rows[0]["ECE by chance"] == pytest.approx(np.mean([row["ECE"] for row in rows]), rel=0.03)


def test_a_prediction_is_of_the_ten_likeliest() -> None:
    share = torch.tensor([0.03, 0.02] + [0.095] * 10).expand(2, -1)
    probability, hit, log_loss = study.predict(share.log(), torch.tensor([0, 5]))
    assert probability.tolist() == pytest.approx([0.95, 0.95]) and hit.tolist() == [0, 1]
    assert log_loss.tolist() == pytest.approx([-np.log(0.03), -np.log(0.095)])


def test_predictions_are_those_of_the_recommender(loaded: Callable[[str], Recommender]) -> None:
    # DiffRec ranks by the log of the draws' mean probability.
    recommender = loaded("DiffRec")
    part = study.held_out(recommender, most=30)
    asked = Options(len(recommender.vocabulary), exclude_seen=False, seed=4, temperature=20.0, batch_size=64)
    drawn = study.ask(recommender, part, asked, [1, 3])
    assert list(drawn.predictions) == [1, 3]
    for number, told in drawn.predictions.items():
        given = recommender.recommend_ids(part.users, part.histories, replace(asked, inference_seeds=number))
        probability = np.exp(given.scores.astype(float))
        of_target = given.items == recommender.vocabulary.tokens[part.targets][:, None]
        np.testing.assert_allclose(told.hit_probability, probability[:, :10].sum(axis=1), rtol=1e-4)
        np.testing.assert_allclose(told.log_loss, -np.log(probability[of_target]), rtol=1e-4)
        assert told.hit.tolist() == drawn.ways[number, False].hit.tolist()
    assert not np.allclose(drawn.predictions[1].log_loss, drawn.predictions[3].log_loss, rtol=1e-4)


@pytest.mark.parametrize(("model", "settings"), [("DiffuRec", {"diffusion": False}), ("RFMRec", {})])
def test_the_report_without_noise_is_of_the_plain_score(
    saved: Callable[..., Saved], model: str, settings: dict[str, Any]
) -> None:
    off = saved(model, **settings)
    study.run([f"--checkpoint={off.path}", "--output=out"])
    assert os.listdir("out") == [f"{model}-ml-100k-certainty.md"]
    text = Path("out", f"{model}-ml-100k-certainty.md").read_text(encoding="utf-8")
    assert re.findall("^## (.*)$", text, re.MULTILINE) == ["Accuracy by uncertainty", "Calibration"]
    tables = [re.split(r" *\| *", line)[1:-1] for line in text.splitlines() if re.match(r"\| ", line)]
    assert len(tables) == 2 + 2 + 1 + study.DECILES and "noise scale" not in text and "nan" not in text
    accuracy, calibrated = (dict(zip(*tables[at : at + 2], strict=True)) for at in (0, 2))
    assert float(accuracy["NDCG@10"]) == pytest.approx(off.test_result["ndcg@10"], abs=6e-5)
    for row in (accuracy, calibrated):
        assert float(row["Hit@10"]) == pytest.approx(off.test_result["hit@10"], abs=6e-5)


def test_ids_have_one_scale_of_noise(saved: Callable[..., Saved]) -> None:
    study.run([f"--checkpoint={saved('PreferGrow').path}", "--inference_seeds=1,2", "--output=out"])
    text = Path("out", "PreferGrow-ml-100k-certainty.md").read_text(encoding="utf-8")
    assert re.search(r"^\| 1 .*\|$", text, re.MULTILINE)
    assert not re.search(r"^\| 1000? .*\|$", text, re.MULTILINE)


def test_the_report_holds_both_studies(saved: Callable[..., Saved], capsys: pytest.CaptureFixture[str]) -> None:
    argv = [f"--checkpoint={saved('DiffRec').path}", "--noise_scales=0.5,2", "--inference_seeds=1,3", "--output=out"]
    study.run(argv)
    stem = "DiffRec-ml-100k-certainty"
    assert sorted(os.listdir("out")) == [f"{stem}-deciles.png", f"{stem}-trade.png", f"{stem}.md"]
    text = Path("out", f"{stem}.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == text
    assert (
        len(re.findall(r"^\| (0\.5|2) .*\|$", text, re.MULTILINE))
        == 2 + 2 * study.DECILES + 2 * 3 + 4 + 4 * study.DECILES
    )
    for picture in re.findall(r"!\[.*\]\((.*)\)", text):
        assert Path("out", picture).stat().st_size > 10_000
    assert "nan" not in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--noise_scales=1,x"], "take numbers separated by commas"),
        (["--inference_seeds=1"], "--inference_seeds positive ones, one of 2 or more"),
        (["--inference_seeds=0,2"], "--inference_seeds positive ones, one of 2 or more"),
        (["--output=/dev/null/a"], "/dev/null/a: the report cannot be written there"),
        (["--noise_scales=-1"], "temperature must be at least 0, got -1.0"),
    ],
)
def test_mistakes(saved: Callable[..., Saved], flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        study.run([f"--checkpoint={saved('DiffuRec').path}", *flags])
