"""A training on two hosts: two network namespaces with addresses of their own. `python -m tests.two_hosts`, as root.

Checks that two processes on two hosts come to the metrics of one and to the weights of two on one host, that a host
which cannot be reached gets its line within a minute, and that both end when the cable breaks in the middle. It takes
some five minutes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

HOSTS = {"rd-first": "10.77.0.1", "rd-second": "10.77.0.2"}
FIRST, SECOND = HOSTS
PORT = 5678
SETTINGS = {
    "model": "DiffuRec",
    "dataset": "ml-100k",
    "user_inter_num_interval": "[0,30]",
    "epochs": 3,
    "hidden_size": 16,
    "inner_size": 32,
    "n_layers": 1,
    "n_heads": 2,
    "MAX_ITEM_LIST_LENGTH": 10,
    "hidden_dropout_prob": 0.0,
    "attn_dropout_prob": 0.0,
    "embedding_dropout_prob": 0.0,
    "eval_batch_size": 20,
    "tensorboard_dir": "~",
    "threads": 1,
}


def why_not() -> str | None:
    """Why it cannot be done here."""
    if shutil.which("ip") is None:
        return "there is no ip (iproute2)"
    return None if os.geteuid() == 0 else "network namespaces need root"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@contextmanager
def hosts() -> Iterator[None]:
    """Two namespaces that a cable joins."""
    try:
        for host in HOSTS:
            ip("netns", "add", host)
            ip("-n", host, "link", "set", "lo", "up")
        ip("link", "add", "cable", "netns", FIRST, "type", "veth", "peer", "name", "cable", "netns", SECOND)
        for host, address in HOSTS.items():
            ip("-n", host, "address", "add", f"{address}/24", "dev", "cable")
            ip("-n", host, "link", "set", "cable", "up")
        yield
    finally:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "delete", host], check=False)


def cable(state: str) -> None:
    """Break the cable (`down`) or mend it (`up`): neither host sees its own end go."""
    ip("-n", SECOND, "link", "set", "cable", state)


def start(folder: Path, host: str | None = None, flags: Sequence[str] = (), **changes: object) -> subprocess.Popen[str]:
    """Start a training with its files in a folder, on a host or on this machine."""
    folder.mkdir()
    settings = {**SETTINGS, "checkpoint_dir": folder, "log_dir": folder, **changes}
    command = [sys.executable, "-m", "recbole_diffusion", "train", *(f"--{k}={v}" for k, v in settings.items()), *flags]
    where = [] if host is None else ["ip", "netns", "exec", host]
    return subprocess.Popen([*where, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start_both(folder: Path, **changes: object) -> dict[str, subprocess.Popen[str]]:
    common = ["--nproc=1", "--world_size=2", f"--ip={HOSTS[FIRST]}", f"--port={PORT}"]
    offsets = {FIRST: [], SECOND: ["--group_offset=1"]}
    return {host: start(folder / host, host, [*common, *offsets[host]], **changes) for host in HOSTS}


def end(process: subprocess.Popen[str], seconds: float = 300) -> tuple[int, str, str]:
    """Wait for a process; gives its exit code, what it printed, and its last line on stderr."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, (err.strip().splitlines() or [""])[-1]


def table(out: str) -> list[str]:
    """The lines of the metrics."""
    return [line for line in out.splitlines() if "@" in line]


def best(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of the best checkpoint in a folder."""
    (file,) = [file for file in folder.glob("*.pth") if not file.name.endswith(".last.pth")]
    return torch.load(file, weights_only=True)["state_dict"]


def check_equal(root: Path) -> None:
    alone, one_host = end(start(root / "alone")), end(start(root / "one-host", flags=["--nproc=2"]))
    both = {host: end(process) for host, process in start_both(root).items()}
    assert [code for code, *_ in (alone, one_host, *both.values())] == [0] * 4, (alone, one_host, both)
    assert table(alone[1]) == table(both[FIRST][1]) != [], (alone[1], both[FIRST][1])
    expected, found = best(root / "one-host"), best(root / FIRST)
    assert all(torch.equal(expected[name], found[name]) for name in expected), "weights differ from those of one host"
    assert not list((root / SECOND).glob("*.pth")), "the second process has written"
    print("two hosts come to the metrics of one process, and to the very weights of two processes on one host")


def check_unreachable(root: Path) -> None:
    cable("down")
    begin = time.monotonic()
    # What every start takes.
    subprocess.run([sys.executable, "-c", "import recbole_diffusion.training.run"], check=True)
    start_up, begin = time.monotonic() - begin, time.monotonic()
    common = ["--nproc=1", "--world_size=2", f"--ip={HOSTS[FIRST]}", f"--port={PORT}", "--group_offset=1"]
    code, _, line = end(start(root / "unreachable", SECOND, common))
    seconds = time.monotonic() - begin - start_up
    cable("up")
    assert code == 2 and "cannot be reached within" in line and seconds < 60, (code, line, seconds)
    print(f"a host that cannot be reached, {seconds:.0f} s after its start: {line}")


def check_broken(root: Path) -> None:
    folder = root / "broken"
    folder.mkdir()
    both = start_both(folder, epochs=100000, stopping_step=100000)
    while not list((folder / FIRST).glob("*.last.pth")):
        assert all(process.poll() is None for process in both.values()), {h: end(p) for h, p in both.items()}
        time.sleep(0.1)
    cable("down")
    begin = time.monotonic()
    for host, process in both.items():
        code, _, line = end(process)
        seconds = time.monotonic() - begin
        assert code == 2 and "gives no sign of life" in line, (host, code, line)
        assert host != FIRST or "--resume=" in line, line
        print(f"a cable that breaks in the middle, on {host} after {seconds:.0f} s: {line}")


def main() -> int:
    reason = why_not()
    if reason is not None:
        print(f"skipped: {reason}")
        return 0
    with TemporaryDirectory() as folder, hosts():
        check_equal(Path(folder))
        check_unreachable(Path(folder))
        check_broken(Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
