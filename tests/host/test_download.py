from __future__ import annotations

import http.client
import io
import os
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from recbole_diffusion.errors import SettingError, UserError
from recbole_diffusion.host import download
from recbole_diffusion.host.dataset import build_dataset
from recbole_diffusion.host.download import ensure_files
from recbole_diffusion.host.settings import load_config

TEXT = "user_id:token\titem_id:token\ttimestamp:float\n" + "".join(
    f"u{user}\ti{item}\t{item}\n" for user in range(3) for item in range(5)
)


def archive(names: tuple[str, ...] = ("ml-1m.inter", "ml-1m.item")) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in names:
            file.writestr(name, TEXT if name.endswith("inter") else "item_id:token\ni1\n")
    return buffer.getvalue()


class Response(io.BytesIO):
    def __init__(self, content: bytes, size: int | None = None) -> None:
        super().__init__(content)
        self.headers = {"Content-Length": str(len(content) if size is None else size)}


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[str]]:
    """Have the network answer with some bytes, a response or an error; gives the addresses that were asked for."""

    def answer_with(answer: Any) -> list[str]:
        asked: list[str] = []

        def urlopen(url: str, timeout: float) -> Any:
            asked.append(url)
            if isinstance(answer, Exception):
                raise answer
            return Response(answer) if isinstance(answer, bytes) else answer

        monkeypatch.setattr(urllib.request, "urlopen", urlopen)
        return asked

    return answer_with


def test_a_dataset_is_downloaded_once(serve: Callable[[Any], list[str]], tmp_path: Path) -> None:
    asked = serve(archive())
    config = load_config("SASRec", "ml-1m", None, {"data_path": str(tmp_path / "new" / "data")})
    # A folder that is not there may be a slip of the pen.
    with pytest.raises(SettingError, match="data_path must be a folder that exists"):
        build_dataset(config)
    assert not asked
    (tmp_path / "new/data").mkdir(parents=True)
    assert build_dataset(config).user_num == 4
    build_dataset(config)
    assert len(asked) == 1 and asked[0].endswith("ml-1m.zip")
    assert sorted(os.listdir(tmp_path / "new/data")) == ["ml-1m"]
    assert sorted(os.listdir(tmp_path / "new/data/ml-1m")) == ["ml-1m.inter", "ml-1m.item"]


def test_files_take_the_name_of_the_dataset(serve: Callable[[Any], list[str]], tmp_path: Path) -> None:
    url = download.known_datasets()["amazon-beauty"]
    stem = url.rpartition("/")[2].removesuffix(".zip")
    assert stem != "amazon-beauty"
    serve(archive((f"{stem}.inter",)))
    ensure_files(tmp_path / "amazon-beauty", "amazon-beauty")
    assert os.listdir(tmp_path / "amazon-beauty") == ["amazon-beauty.inter"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (urllib.error.URLError("Name or service not known"), "Name or service not known"),
        (urllib.error.HTTPError("http://x", 404, "Not Found", Message(), None), "Not Found"),
        (TimeoutError("timed out"), "timed out"),
        (http.client.RemoteDisconnected("closed"), "closed"),
        (Response(archive()[:200], size=len(archive())), "it ended after 200 of"),
        (b"<html>no zip</html>", "not a zip"),
    ],
)
def test_a_download_that_fails_leaves_nothing_and_the_next_one_works(
    serve: Callable[[Any], list[str]], tmp_path: Path, answer: Any, reason: str
) -> None:
    serve(answer)
    with pytest.raises(
        UserError, match=f"{reason}.*set --data_path=FOLDER to a folder that holds ml-1m/ml-1m.inter"
    ) as raised:
        ensure_files(tmp_path / "ml-1m", "ml-1m")
    assert "\n" not in str(raised.value)
    assert not os.listdir(tmp_path)
    serve(archive())
    ensure_files(tmp_path / "ml-1m", "ml-1m")
    assert (tmp_path / "ml-1m/ml-1m.inter").read_text() == TEXT


def test_an_archive_without_interactions_is_refused(serve: Callable[[Any], list[str]], tmp_path: Path) -> None:
    serve(archive(("ml-1m.item",)))
    with pytest.raises(UserError, match=r"holds no ml-1m\.inter"):
        ensure_files(tmp_path / "ml-1m", "ml-1m")
    assert not os.listdir(tmp_path)


def test_what_killed_downloads_left_is_cleared_away(serve: Callable[[Any], list[str]], tmp_path: Path) -> None:
    serve(archive())
    stale, running = tmp_path / ".ml-1m.download-a", tmp_path / ".ml-1m.download-b"
    for folder in (stale, running):
        folder.mkdir()
        (folder / "archive.zip").write_bytes(b"half")
    long_ago = time.time() - 2 * download.STALE_SECONDS
    for path in (stale / "archive.zip", stale):
        os.utime(path, (long_ago, long_ago))
    ensure_files(tmp_path / "ml-1m", "ml-1m")
    assert sorted(os.listdir(tmp_path)) == [".ml-1m.download-b", "ml-1m"]


def test_a_folder_without_interactions_counts_as_not_there(serve: Callable[[Any], list[str]], tmp_path: Path) -> None:
    serve(archive())
    (tmp_path / "ml-1m").mkdir()
    (tmp_path / "ml-1m/notes.txt").write_text("mine")
    ensure_files(tmp_path / "ml-1m", "ml-1m")
    assert sorted(os.listdir(tmp_path / "ml-1m")) == ["ml-1m.inter", "ml-1m.item", "notes.txt"]


def test_unknown_names_and_missing_parts_are_told_without_asking_the_network(
    serve: Callable[[Any], list[str]], tmp_path: Path
) -> None:
    asked = serve(archive())
    with pytest.raises(UserError, match=r"dataset=ml-1n: .*--data_path=FOLDER.*did you mean ml-1m\?"):
        ensure_files(tmp_path / "ml-1n", "ml-1n")
    (tmp_path / "ml-1nn").mkdir()
    (tmp_path / "ml-1nn" / "ml-1nn.inter").write_text(TEXT)
    with pytest.raises(UserError, match=r"did you mean ml-1nn\?$"):
        ensure_files(tmp_path / "ml-1n", "ml-1n")
    with pytest.raises(UserError, match=r"ml-1m\.train\.inter, which benchmark_filename="):
        ensure_files(tmp_path / "ml-1m", "ml-1m", ["train", "valid", "test"])
    assert not asked
