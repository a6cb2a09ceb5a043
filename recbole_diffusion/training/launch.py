"""How the processes of a run come to be, find one another, and end.

They are started here (`nproc`, `world_size`, `group_offset`, `ip` and `port`, as in RecBole) or by torchrun. Either way
each finds its place in the environment variables that torchrun sets.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch.distributed as dist
from torch import multiprocessing
from tqdm import tqdm

from ..common.signals import described
from ..errors import ReportedElsewhere, SettingError, UserError
from ..host.registry import findable
from ..host.settings import load_config
from . import memory
from .distributed import Alone, Group, LostProcess, as_present, hint_of
from .pulse import Pulse
from .threads import free_threads

# Seconds that processes wait for one another before training begins, and in the middle of it.
SECONDS_TO_MEET = 45
SECONDS_TO_ANSWER = 1800
# Seconds that processes have to end in when the run is broken off.
SECONDS_TO_END = 5
# What all processes of a run leave to the first.
QUIET = {
    "log_dir": None,
    "tensorboard_dir": None,
    "log_wandb": False,
    "show_progress": False,
    "verbose": False,
    "state": "critical",
}


class Place(NamedTuple):
    """Where a process stands in its run.

    rank, number : int
        Which process, from 0, and how many there are.
    host, port : str, int
        Where they meet.
    waits_there : bool
        Whether somebody else waits there: torchrun, or the process that started this one. Else the first process does.
    attempt : str
        How often torchrun has started them again.
    """

    rank: int
    number: int
    host: str
    port: int
    waits_there: bool
    attempt: str

    @classmethod
    def read(cls) -> Place | None:
        """The place of this process; None where it runs by itself."""
        names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        if not all(os.environ.get(name) for name in names) or os.environ["WORLD_SIZE"] == "1":
            return None
        rank, number, host, port = (os.environ[name] for name in names)
        waits = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        return cls(int(rank), int(number), host, int(port), waits, os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def is_first() -> bool:
    """Whether this process is the one of its run that talks to the user."""
    place = Place.read()
    return place is None or place.rank == 0


# Finding one another.


def _store(host: str, port: int, waits: bool) -> dist.TCPStore:
    """Where processes meet.

    Parameters
    ----------
    host : str
    port : int
        0 for any that is free, where this process waits there.
    waits : bool
        Whether this process is the one that waits there.

    Raises
    ------
    UserError
    """
    if waits and port:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError as error:
                must = f"be a port of this machine that nobody uses ({error.strerror})"
                raise SettingError("port", port, must=must) from error
    if not waits:
        _wait_for(host, port)
    try:
        seconds = timedelta(seconds=SECONDS_TO_MEET)
        return dist.TCPStore(host, port, None, waits, timeout=seconds, wait_for_workers=False)
    except (RuntimeError, TimeoutError, ValueError) as error:
        if "EADDRINUSE" in str(error):
            raise SettingError("port", port, must="be a port of this machine that nobody uses") from error
        raise _unreachable(host, port) from error


def _wait_for(host: str, port: int) -> None:
    """Wait until somebody listens there; torch's own wait lasts longer than its limit.

    Raises
    ------
    UserError
    """
    until = time.monotonic() + SECONDS_TO_MEET
    while True:
        try:
            with socket.create_connection((host, port), timeout=max(0.1, until - time.monotonic())):
                return
        except OSError as error:
            if time.monotonic() > until:
                raise _unreachable(host, port) from error
            time.sleep(0.2)


def _unreachable(host: str, port: int) -> UserError:
    return UserError(
        f"ip={host}, port={port}: the first process of the run cannot be reached within {SECONDS_TO_MEET} s"
    )


def _meet(place: Place, store: dist.Store) -> None:
    """Wait until all processes are there.

    Raises
    ------
    UserError
        Naming those that are not.
    """
    keys = [f"here/{rank}" for rank in range(place.number)]
    store.set(keys[place.rank], socket.gethostname())
    try:
        store.wait(keys, timedelta(seconds=SECONDS_TO_MEET))
    except (RuntimeError, TimeoutError) as error:
        missing = ", ".join(str(rank) for rank, key in enumerate(keys) if not store.check([key]))
        raise UserError(
            f"process {missing} of {place.number} has not come to {place.host}:{place.port} within "
            f"{SECONDS_TO_MEET} s; start all with the same ip, port and world_size"
        ) from error


@contextmanager
def joined(config: Any) -> Iterator[Alone]:
    """Take the place among the processes of a run that the environment names, for as long as the context lasts.

    In all but the first process the settings are changed so that nothing is written. Under torchrun, a run that was
    started again goes on from its last checkpoint.

    Parameters
    ----------
    config : DiffusionConfig

    Raises
    ------
    UserError
        Where the others cannot be reached, or have ended.
    """
    place = Place.read()
    pointer = _pointer(config)
    if place is None:
        processes = Alone()
        processes.pointer = pointer
        with as_present(processes):
            yield processes
    else:
        waits = place.rank == 0 and not place.waits_there
        store = dist.PrefixStore(f"recbole-diffusion/{place.attempt}", _store(place.host, place.port, waits))
        _meet(place, store)
        if place.rank:
            for key, value in QUIET.items():
                config[key] = value
        group = Group(place.rank, place.number, store)
        group.pointer = pointer if place.rank == 0 else None
        pulse = _pulse(place) if _several_machines(place) else None
        dist.init_process_group(
            _backend(config),
            store=dist.PrefixStore("torch", store),
            rank=place.rank,
            world_size=place.number,
            timeout=timedelta(seconds=SECONDS_TO_ANSWER),
        )
        try:
            with as_present(group):
                yield group
        except Exception as error:
            explained = group.explained(error)
            raise explained from (None if explained is error else error)
        finally:
            if pulse is not None:
                pulse.close()
            with suppress(RuntimeError):
                dist.destroy_process_group()
    if pointer is not None and is_first():
        pointer.unlink(missing_ok=True)


def _several_machines(place: Place) -> bool:
    """Whether the run has processes on other machines; they then talk through the interface that leads to the first."""
    if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) >= place.number:
        return False
    name = interface_to(place.host, place.port)
    # By itself gloo takes the address of the machine's name, which often is that of its loopback.
    if name is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    return True


def interface_to(host: str, port: int) -> str | None:
    """The network interface through which a machine is reached; None where that is unknown."""
    with suppress(OSError):
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            # Which sends nothing.
            probe.connect(address)
            own = probe.getsockname()[0]
        for name, addresses in psutil.net_if_addrs().items():
            if any(known.address == own for known in addresses):
                return name
    return None


def _pulse(place: Place) -> Pulse:
    """Give signs of life; the process ends where another one gives none."""
    store = dist.PrefixStore(f"recbole-diffusion/{place.attempt}", _store(place.host, place.port, False))

    def lost(whom: str) -> None:
        hint = hint_of(store) if place.rank == 0 else ""
        _leave(LostProcess(f"{whom} gives no sign of life: the machine or the network is gone{hint}"))

    return Pulse(place.rank, place.number, store, lost)


# Where a process that was started here leaves what came of it.
_last_word: Path | None = None


def _leave(error: UserError) -> None:
    """End this process at once, from any thread: the others wait in vain, and so may its own."""
    if _last_word is None:
        print(f"error: {error}", file=sys.stderr, flush=True)
    else:
        _last_word.write_bytes(pickle.dumps(error))
    os._exit(1)


def _backend(config: Any) -> str:
    """gloo on CPUs, and NCCL for GPUs where each process of this machine has its own."""
    if config["device"].type == "cpu":
        return "gloo"
    own = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) <= len(set(config["gpu_id"].split(",")))
    return "cpu:gloo,cuda:nccl" if own and dist.is_nccl_available() else "gloo"


def _pointer(config: Any) -> Path | None:
    """The file that says, to a run that torchrun starts again, where its last checkpoint is; None without torchrun.

    Where that is known, and the run is started again, it is what `resume` says from here on.
    """
    run = os.environ.get("TORCHELASTIC_RUN_ID")
    if run is None:
        return None
    # Without a name of its own a run is that of the torchrun that started this process.
    name = (
        f"{socket.gethostname()}-{os.getppid()}" if run == "none" else "".join(c if c.isalnum() else "-" for c in run)
    )
    pointer = Path(config["checkpoint_dir"]) / f".torchrun-{name}"
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0" and pointer.is_file():
        config["resume"] = pointer.read_text(encoding="utf-8")
    return pointer


# Starting them.


class Job(NamedTuple):
    """What each process is started with.

    model : str or type
    dataset : str
    settings : dict
        As the user gave them.
    warnings : list of str
        Of the settings.
    saved : bool
        Whether to keep checkpoints.
    keeps_memory : bool
        Whether the process keeps the memory that it frees.
    run : callable
        Settings and `saved` -> the result of the run.
    environment : dict
        What says where they meet.
    offset : int
        Rank of the first process of this machine.
    folder : str
        Where each leaves what came of it.
    """

    model: str | type
    dataset: str
    settings: dict[str, Any]
    warnings: list[str]
    saved: bool
    keeps_memory: bool
    run: Callable[[Any, bool], Any]
    environment: dict[str, str]
    offset: int
    folder: str


def starts_processes(config: Any) -> bool:
    """Whether a run has to start processes: it has several, and this is none of them."""
    several = (config["nproc"] or 1) > 1 or (config["world_size"] or 1) > 1
    return several and Place.read() is None


def run_processes(config: Any, saved: bool, run: Callable[[Any, bool], Any]) -> Any:
    """Run in the processes of this machine that the settings ask for; gives the result of the first of them.

    Parameters
    ----------
    config : DiffusionConfig
    saved : bool
        Whether to keep checkpoints.
    run : callable
        Settings and `saved` -> the result; called in each process.

    Raises
    ------
    UserError
        Where a process was killed, by its name, or what it raised.
    """
    number, offset = config["nproc"] or 1, config["offset"] or 0
    world = config["world_size"] if (config["world_size"] or 0) > 0 else number + offset
    if world < number + offset:
        must = f"be at least nproc + group_offset = {number + offset}"
        raise SettingError("world_size", config["world_size"], must=must)
    port, host = _port(config, one_machine=world == number), config["ip"] or "localhost"
    # Held until the processes have ended; one that cannot be reached is told before any is started.
    server = _store("localhost" if offset == 0 else host, port, waits=offset == 0)
    environment = {
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(number),
        "MASTER_ADDR": host,
        "MASTER_PORT": str(server.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        # Its warnings are those of a library that tries again.
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    threads = config["threads"] or max(1, free_threads() // number)
    with tempfile.TemporaryDirectory(prefix="recbole-diffusion-") as folder:
        job = Job(
            findable(config.model_class),
            config.dataset,
            {**config.given, "threads": threads},
            config.warnings,
            saved,
            memory.is_kept(),
            run,
            environment,
            offset,
            folder,
        )
        return _outcome(job, number, world, server)


def _port(config: Any, one_machine: bool) -> int:
    port = config["port"]
    if port is None and one_machine:
        return 0
    if port is None or not str(port).isdecimal() or not 0 < int(port) < 2**16:
        must = "be a number from 1 to 65535" if port is not None else "be given, the same on each machine"
        raise SettingError("port", port, must=must)
    return int(port)


def _outcome(job: Job, number: int, world: int, server: dist.Store) -> Any:
    log = logging.getLogger("torch.multiprocessing.spawn")
    level = log.level
    # It tells of each process that it ends after another one's error.
    log.setLevel(logging.CRITICAL)
    with _environment(job.environment):
        context = multiprocessing.start_processes(_work, (job,), number, join=False, start_method="spawn")
    try:
        while not context.join():
            pass
        outcome = _left(job, 0)
    except (multiprocessing.ProcessExitedException, multiprocessing.ProcessRaisedException) as error:
        outcome = _cause(job, context.processes, error.error_index, world, server)
    except BaseException:
        _end(context.processes)
        raise
    finally:
        log.setLevel(level)
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables that processes find which are started in this context."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _work(local_rank: int, job: Job) -> None:
    """What a process does that was started here."""
    os.environ.update(RANK=str(job.offset + local_rank), LOCAL_RANK=str(local_rank))
    # Its own lock is one of the system's, which a process that is killed leaves behind.
    tqdm.set_lock(threading.RLock())
    if job.keeps_memory:
        memory.keep_freed_memory()
    outcome: Any
    global _last_word
    _last_word = Path(job.folder, str(local_rank))
    try:
        config = load_config(job.model, job.dataset, None, job.settings)
        config.warnings = job.warnings
        outcome = job.run(config, job.saved)
    except UserError as error:
        outcome = error
    except Exception as error:
        outcome = ExceptionWithTraceback(error, error.__traceback__)
    except KeyboardInterrupt:
        outcome = KeyboardInterrupt()
    _last_word.write_bytes(pickle.dumps(outcome))
    if isinstance(outcome, ReportedElsewhere):
        # The first to end with an error ends all: let it be the one that has something to say.
        time.sleep(SECONDS_TO_END)
    if isinstance(outcome, BaseException | ExceptionWithTraceback):
        os._exit(1)


def _left(job: Job, local_rank: int) -> Any:
    """What came of a process, its error among it; None where it has left nothing."""
    with suppress(OSError, EOFError, pickle.UnpicklingError):
        return pickle.loads(Path(job.folder, str(local_rank)).read_bytes())
    return None


def _cause(job: Job, processes: list[Any], first: int, world: int, server: dist.Store) -> BaseException:
    """Why a run has ended whose process `first` was the first to end with an error."""
    # The others were ended here.
    killed = [i for i, p in enumerate(processes) if (p.exitcode or 0) < 0 and p.exitcode != -signal.SIGTERM]
    if (processes[first].exitcode or 0) < 0:
        killed = [first]
    if killed:
        how = described(-processes[killed[0]].exitcode)
        go_on = hint_of(dist.PrefixStore("recbole-diffusion/0", server))
        return UserError(f"process {job.offset + killed[0]} of {world} was ended by {how}{go_on}")
    left = {rank: _left(job, rank) for rank in (first, *range(len(processes)))}
    errors = [error for error in left.values() if isinstance(error, BaseException)]
    causes = [error for error in errors if not isinstance(error, LostProcess | ReportedElsewhere)]
    if causes or not errors:
        return next(iter(causes), UserError(f"process {job.offset + first} of {world} has ended without a word"))
    # The process that tells is on another machine.
    return UserError(str(errors[0]))


def _end(processes: list[Any]) -> None:
    """End processes as an interrupt would, and those that do not end, by force."""
    living = [psutil.Process(process.pid) for process in processes if process.is_alive()]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        for process in living:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        _, living = psutil.wait_procs(living, SECONDS_TO_END)
