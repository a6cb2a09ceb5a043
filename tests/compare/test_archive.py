from __future__ import annotations

import json
import shutil
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from small_plans import small_plan

from recbole_diffusion.cli import compare as cli
from recbole_diffusion.common.deadline import Deadline
from recbole_diffusion.common.files import read_json, write_json
from recbole_diffusion.compare import local
from recbole_diffusion.compare.archive import pack, read_archive, unpack, write_archive
from recbole_diffusion.compare.plan import Plan, make_plan, read_request
from recbole_diffusion.compare.runner import run_all
from recbole_diffusion.errors import UserError

MEMBERS = {"runs/a/1/run.json": b"{}", "tuned/a.csv": b"1,2\n", "runs/a/1/ranks.npz": bytes(range(256)) * 99}


def plan_of(compared: dict[str, Any], **settings: str) -> Plan:
    return make_plan(read_request({**compared["settings"], **settings}, [], "ml-100k"))


def refuse_to_train(*_: object) -> None:
    raise AssertionError("a finished run is trained again")


def test_an_archive_comes_back_and_the_same_members_give_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.xz"
    write_archive(path, MEMBERS)
    assert read_archive(path) == MEMBERS
    assert path.stat().st_size < 1000
    before = path.read_bytes()
    write_archive(path, dict(reversed(MEMBERS.items())))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.tar.xz"]


def test_without_a_file_there_are_no_members(tmp_path: Path) -> None:
    assert read_archive(tmp_path / "none.tar.xz") == {}


def test_a_torn_archive_and_another_file_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.xz"
    write_archive(path, MEMBERS)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"no archive", b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"archive=.*a.tar.xz: must be a tar.xz file that can be read"):
            read_archive(path)


def test_a_member_outside_of_the_runs_is_written_nowhere(tmp_path: Path) -> None:
    write_archive(tmp_path / "a.tar.xz", {"../evil": b"1", **MEMBERS})
    unpack(small_plan(model_list="Pop", seeds="1", output=str(tmp_path / "out"), archive=str(tmp_path / "a.tar.xz")))
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar.xz"}


def test_the_report_made_from_the_archive_is_the_one_made_from_the_folder(
    compared: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(compared["folder"] / "runs", first / "runs")
    # SASRec's runs have failed and would be tried again.
    settings = {**compared["settings"], "model_list": "DiffuRec", "test_latex": str(tmp_path / "test.tex")}
    del settings["SASRec.learning_rate"]
    monkeypatch.setattr(local, "start_process", refuse_to_train)
    for folder in (first, second):
        paths = {"output": str(folder), "archive": str(tmp_path / "runs.tar.xz")}
        cli.run_settings({**settings, **paths}, [], ["--again"])
    for name in ("report.md", "report.html", "results.json", "results.csv", "differences.tex", "valid.tex"):
        assert (first / name).read_text() == (second / name).read_text()
    assert [run["state"] for run in read_json(second / "results.json")["runs"]] == ["done"] * 4


def test_what_the_archive_holds_stays_and_only_finished_runs_are_added(
    compared: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "runs.tar.xz"
    write_archive(path, {**MEMBERS, "runs/DiffuRec/1/record.json": b"kept"})
    pack(plan_of(compared, archive=str(path)))
    members = read_archive(path)
    assert {name: members[name] for name in MEMBERS} == MEMBERS
    assert members["runs/DiffuRec/1/record.json"] == b"kept"
    record = json.loads(members["runs/DiffuRec-off/2/record.json"])
    assert record == read_json(compared["folder"] / "runs" / "DiffuRec-off" / "2" / "record.json")
    assert not [name for name in members if "SASRec" in name]
    with tarfile.open(path) as archive:
        assert {(member.mtime, member.uid, member.uname) for member in archive} == {(0, 0, "")}


def test_nothing_is_written_where_nothing_is_new(compared: dict[str, Any], tmp_path: Path) -> None:
    plan = plan_of(compared, archive=str(tmp_path / "runs.tar.xz"))
    pack(plan)
    before = (tmp_path / "runs.tar.xz").stat().st_mtime_ns
    pack(plan)
    assert (tmp_path / "runs.tar.xz").stat().st_mtime_ns == before


def test_what_cannot_be_packed_before_the_deadline_is_added_later(
    compared: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_of(compared, archive=str(tmp_path / "runs.tar.xz"))
    pack(plan._replace(deadline=Deadline(time.time() + 1e-3)))
    assert not list(tmp_path.iterdir()) and "the same command adds the runs later" in caplog.text
    pack(plan._replace(deadline=Deadline(time.time() + 60)))
    assert len(read_archive(tmp_path / "runs.tar.xz")) == 4 * 3


def test_a_run_with_other_settings_is_refused(compared: dict[str, Any], tmp_path: Path) -> None:
    archive, out = str(tmp_path / "runs.tar.xz"), str(tmp_path / "out")
    pack(plan_of(compared, archive=archive))
    with pytest.raises(
        UserError, match=r"archive=.*runs.tar.xz: DiffuRec was run with epochs=2 there, not 3; .* --archive=~"
    ):
        unpack(plan_of(compared, archive=archive, output=out, epochs="3"))
    unpack(plan_of(compared, archive="~", output=out, epochs="3"))
    assert not Path(out).exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.json", b'{"settings": ', "run.json: cannot be read as json"),
        ("run.json", b"[]", "run.json: must hold a mapping, got list"),
        ("run.json", b'{"name": 3}', "run.json: is damaged, as its name is missing or of another form"),
        ("record.json", b"\xff", "record.json: cannot be read as json"),
        ("record.json", b"{}", "record.json: is damaged, as its epochs is missing or of another form"),
    ],
)
def test_a_damaged_member_is_named_in_one_line(
    compared: dict[str, Any], tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    archive, out = tmp_path / "runs.tar.xz", tmp_path / "out"
    pack(plan_of(compared, archive=str(archive)))
    write_archive(archive, {**read_archive(archive), f"runs/DiffuRec/1/{name}": content})
    with pytest.raises(UserError, match=message) as error:
        unpack(plan_of(compared, archive=str(archive), output=str(out)))
    assert str(error.value).startswith(f"archive={archive}: ") and "\n" not in str(error.value)
    assert not out.exists()


def test_damaged_ranks_are_not_packed(compared: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(compared["folder"] / "runs", tmp_path / "out" / "runs")
    plan = plan_of(compared, archive=str(tmp_path / "runs.tar.xz"), output=str(tmp_path / "out"))
    ranks = tmp_path / "out" / "runs" / "DiffuRec" / "1" / "ranks.npz"
    ranks.write_bytes(ranks.read_bytes()[:100])
    with pytest.raises(UserError, match=f"{ranks}: the ranks cannot be read"):
        pack(plan)


def test_an_archive_that_cannot_be_written_starts_no_run(tmp_path: Path) -> None:
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    settings = {"output": str(tmp_path / "out"), "archive": str(tmp_path / "gone" / "a.tar.xz")}
    plan = small_plan(model_list="Pop", seeds="1", **settings)
    with pytest.raises(UserError, match=r"archive=.*gone/a\.tar\.xz: cannot be written"):
        run_all(plan, ["compare"])
    assert not list(tmp_path.glob("out/runs/*/*"))


def test_a_run_that_the_folder_has_is_not_replaced(compared: dict[str, Any], tmp_path: Path) -> None:
    archive, out = str(tmp_path / "runs.tar.xz"), str(tmp_path / "out")
    pack(plan_of(compared, archive=archive))
    plan = plan_of(compared, archive=archive, output=out)
    mine = plan.runs[0].folder / "record.json"
    write_json(mine, {"mine": 1})
    unpack(plan)
    assert read_json(mine) == {"mine": 1}
    assert read_json(plan.runs[1].folder / "record.json")["seed"] == 2
