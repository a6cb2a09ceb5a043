from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small_plans import SMALL, InThisProcess

from recbole_diffusion.cli import compare as cli
from recbole_diffusion.common.files import read_json, write_json
from recbole_diffusion.compare import local
from recbole_diffusion.compare.plan import Run
from recbole_diffusion.compare.plots import PLOTS
from recbole_diffusion.compare.report import final_table, metric_rows, read_results, to_latex, to_markdown
from recbole_diffusion.errors import UserError


def test_everything_stands_in_the_folder(compared: dict[str, Any]) -> None:
    folder = compared["folder"]
    pictures = {f"{name}.png" for name in PLOTS}
    reports = {"report.md", "report.html", "results.json", "results.csv", "valid.tex", "differences.tex", "runs"}
    assert {path.name for path in folder.iterdir()} == reports | pictures
    assert (folder.parent / "mine" / "test.tex").read_text().count("DiffuRec") == 2
    for name in ("DiffuRec", "DiffuRec-off"):
        assert (folder / "runs" / name / "2" / "ranks.npz").is_file()


def test_the_report_tells_of_every_row(compared: dict[str, Any]) -> None:
    text = (compared["folder"] / "report.md").read_text()
    results = json.loads((compared["folder"] / "results.json").read_text())
    metrics, noise = text.split("## Failed")[0].split("## What the noise is worth")
    assert re.findall(r"^\| (\S+) ", metrics, re.MULTILINE) == ["model", "DiffuRec", "DiffuRec-off", "SASRec"]
    assert re.findall(r"^\| (\S+) ", noise, re.MULTILINE) == ["model", "DiffuRec"]
    assert re.search(
        r"\| (open within ±\d+\.\d%|equal within 2%|\*\*(better|worse) with noise\*\*) \|$", noise, re.MULTILINE
    )
    score = results["rows"][0]["test"]["ndcg@10"]
    assert f"{score['mean']:.4f} ± {score['std']:.4f}" in text
    assert re.search(r"- SASRec, seed 1: .*learning_rate=1e\+30 is probably too high", text)
    assert re.search(r"^\| SASRec .*\| +failed \|", text, re.MULTILINE)
    assert re.search(r"^\| DiffuRec +\| DiffuRec-off +\|", text, re.MULTILINE)
    assert "python -m recbole_diffusion --model_list=DiffuRec,SASRec" in text
    assert re.search(r"^- SASRec: `.*learning_rate=1e30", text, re.MULTILINE)
    assert set(re.findall(r"!\[.*\]\((.*)\)", text)) == {f"{name}.png" for name in PLOTS}


def test_where_there_are_controls_the_noise_says_against_which_row(compared: dict[str, Any]) -> None:
    results = json.loads((compared["folder"] / "results.json").read_text())

    def noise_in(text: str) -> str:
        return text.split("## What the noise is worth")[1].split("##")[0]

    alone = noise_in(to_markdown(results, {}))
    assert "against  " not in alone and "Each model against the same network without noise." in alone
    results["noise"].append({**results["noise"][0], "second": "more dropout", "difference": 0.0123})
    text = noise_in(to_markdown(results, {}))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert [row[:2] for row in rows] == [
        ["model", "against"],
        ["DiffuRec", "DiffuRec-off"],
        ["DiffuRec", "more dropout"],
    ]
    assert "+0.0123" in rows[2] and "+0.0123" not in rows[1]
    assert "with Holm's correction for all 2 pairs of this table, controls included" in text


def test_results_hold_what_is_needed_to_do_it_again(compared: dict[str, Any]) -> None:
    results = json.loads((compared["folder"] / "results.json").read_text())
    assert [(run["name"], run["seed"], run["state"]) for run in results["runs"]] == [
        *[("DiffuRec", 1, "done"), ("DiffuRec", 2, "done"), ("DiffuRec-off", 1, "done"), ("DiffuRec-off", 2, "done")],
        *[("SASRec", 1, "failed"), ("SASRec", 2, "failed")],
    ]
    for run in results["runs"]:
        assert run["command"] == "python -m recbole_diffusion --model_list=DiffuRec,SASRec"
        assert run["config"]["hidden_size"] == 16
        assert run["state"] == "failed" or run["versions"]["recbole"] == "1.2.1"


def test_a_row_of_the_csv_is_a_run(compared: dict[str, Any]) -> None:
    table = pd.read_csv(compared["folder"] / "results.csv")
    results = json.loads((compared["folder"] / "results.json").read_text())
    assert table["name"].tolist() == [run["name"] for run in results["runs"]]
    means = table.groupby("name")["test ndcg@10"].mean()
    assert means["DiffuRec"] == pytest.approx(results["rows"][0]["test"]["ndcg@10"]["mean"])
    assert table.loc[table["name"] == "SASRec", "test ndcg@10"].isna().all()


def test_the_same_command_trains_nothing_that_is_done(
    compared: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[str] = []

    def start(run: Run, *rest: Any) -> InThisProcess:
        started.append(run.variant.name)
        return InThisProcess(run, *rest)

    monkeypatch.setattr(local, "start_process", start)
    before = (compared["folder"] / "results.csv").read_text()
    with pytest.raises(UserError, match="2 of 6 runs failed"):
        cli.run_settings(compared["settings"], [], ["--again"])
    # The report names the command that made it; a run's record, that which made the run.
    assert "```sh\npython -m recbole_diffusion --again\n```" in (compared["folder"] / "report.md").read_text()
    results = json.loads((compared["folder"] / "results.json").read_text())
    assert results["runs"][0]["command"] == "python -m recbole_diffusion --model_list=DiffuRec,SASRec"
    assert started == ["SASRec", "SASRec"]
    after = (compared["folder"] / "results.csv").read_text()
    assert after == before
    out = capsys.readouterr().out
    assert "DiffuRec-off" in out and "SASRec, seed 2 failed: " in out and f"report: {compared['folder']}" in out


def test_where_every_run_fails_the_command_does(
    compared: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(local, "start_process", InThisProcess)
    settings = {**compared["settings"], "model_list": "SASRec", "seeds": "1", "output": str(tmp_path / "out")}
    with pytest.raises(UserError, match=r"runs failed; the first is .*learning_rate"):
        cli.run_settings(settings, [], [])
    assert "| SASRec" in (tmp_path / "out" / "report.md").read_text()


def test_latex_is_bold_where_markdown_is_and_escaped() -> None:
    rows = [{"model": "a_b", "ndcg@10": "**0.1 ± 0.2**"}, {"model": "c%*", "ndcg@10": "< 0.001"}]
    text = to_latex(rows, "On my_data & 5%")
    assert r"a\_b & \textbf{0.1 $\pm$ 0.2} \\" in text and r"c\%* & $<$ 0.001 \\" in text and r"\toprule" in text
    assert r"\caption{On my\_data \& 5\%}" in text


def test_runs_beside_each_other_are_told_of(compared: dict[str, Any]) -> None:
    results = json.loads((compared["folder"] / "results.json").read_text())
    assert "at a time" not in to_markdown(results, {})
    results["runs"][1]["jobs"] = 2
    assert "2 runs at a time" in to_markdown(results, {})


def test_every_machine_that_shared_the_work_is_told_of(compared: dict[str, Any]) -> None:
    results = json.loads((compared["folder"] / "results.json").read_text())
    (times,) = re.findall("The runs' own times add up to .*", to_markdown(results, {}))
    assert times.count("recbole 1.2.1") == 1
    results["runs"][1]["machine"] |= {"gpu": "H200", "system": "Elsewhere"}
    (times,) = re.findall("The runs' own times add up to .*", to_markdown(results, {}))
    assert times.count("recbole 1.2.1") == 2 and re.search(r"; and on .*, H200 \(Elsewhere\) with ", times)


def test_two_rankings_have_tables_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, archive = tmp_path / "out", tmp_path / "runs.tar.xz"
    settings = {**SMALL, "model_list": "Pop,SASRec", "seeds": "1", "history_in_ranking": "both", "epochs": "1"}
    settings |= {"output": str(folder), "archive": str(archive)}
    monkeypatch.setattr(local, "start_process", InThisProcess)
    cli.run_settings(settings, [], ["--model_list=Pop,SASRec"])
    text = (folder / "report.md").read_text()
    for ranking in ("history in the ranking", "history out of the ranking"):
        for heading in ("Test metrics", "Differences", "Validation metrics"):
            assert text.count(f"## {heading}: {ranking}\n") == 1
    assert (
        "## Plots: history in the ranking" in text and "history_out" not in text.split("## Settings")[0].split("```")[2]
    )
    results = json.loads((folder / "results.json").read_text())
    for row in (*results["rows"], *results["history_out"]["rows"]):
        assert set(row["test"]) == {f"{metric}@{k}" for metric in ("hit", "ndcg", "mrr") for k in (5, 10, 20)}
    assert results["rows"][1]["test"] != results["history_out"]["rows"][1]["test"]
    for part in ("valid", "test", "differences"):
        both = [(folder / f"{part}{suffix}.tex").read_text() for suffix in ("", "-history-out")]
        assert "history in the ranking" in both[0] and "history out of the ranking" in both[1]
    shown = final_table(results)
    assert shown.count("history in the ranking") == shown.count("history out of the ranking") == 2
    # The archive keeps the ranks of both.
    monkeypatch.setattr(local, "start_process", None)
    again = {**settings, "output": str(tmp_path / "again")}
    cli.run_settings(again, [], ["--model_list=Pop,SASRec"])
    assert (tmp_path / "again" / "report.md").read_text() == text


def test_a_mean_that_lacks_seeds_says_so(compared: dict[str, Any]) -> None:
    results = json.loads((compared["folder"] / "results.json").read_text())
    results["rows"][0]["failed"] = {3: "killed"}
    assert [row["model"] for row in metric_rows(results)] == ["DiffuRec (2 of 3 seeds)", "DiffuRec-off", "SASRec"]


@pytest.mark.parametrize(("key", "value"), [("dataset", None), ("seeds", 3), ("rows", 3), ("runs", None)])
def test_damaged_results_are_named(compared: dict[str, Any], tmp_path: Path, key: str, value: object) -> None:
    file = tmp_path / "results.json"
    write_json(file, {**read_json(compared["folder"] / "results.json"), key: value})
    with pytest.raises(UserError, match=f"{file}: is damaged, as its {key} is missing or of another form"):
        read_results(tmp_path)
