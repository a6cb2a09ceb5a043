from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_diffusion.training.process import process_as_found

# Told apart by what is printed: the names of what a run has changed. Imported first are the libraries that add
# warnings filters of their own when they are imported.
RUN = """\
import ctypes, logging, os, random, sys, warnings
import numpy as np, scipy.special, scipy.sparse, sympy.utilities.exceptions, torch, torch._dynamo

libc = ctypes.CDLL(None)
real = ctypes.CDLL

def state():
    root = logging.getLogger()
    return {
        "python": random.getstate(),
        "numpy": repr(np.random.get_state(legacy=False)),
        "torch": torch.get_rng_state().tolist(),
        "filters": list(warnings.filters),
        "showwarning": warnings.showwarning,
        "logging": (root.level, list(root.handlers), logging.root.manager.disable),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "anomaly": (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        "cudnn": (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
        "dtype": torch.get_default_dtype(),
        "precision": torch.get_float32_matmul_precision(),
        "grad": torch.is_grad_enabled(),
        "streams": (id(sys.stdout), id(sys.stderr)),
        "excepthook": sys.excepthook,
    }

class Library:
    def __getattr__(self, name):
        print(name)
        return lambda *arguments: 0

ctypes.CDLL = lambda name, *rest, **more: Library() if name is None else real(name, *rest, **more)
# Each case is a process that has yet to import RecBole.
anomaly = True
if child := os.fork():
    assert os.waitpid(child, 0)[1] == 0
    anomaly = False
import recbole_diffusion
from recbole_diffusion import run
torch.autograd.set_detect_anomaly(anomaly)
warnings.filterwarnings("error", "made up")
logging.getLogger().setLevel(logging.ERROR)
random.seed(5), np.random.seed(6), torch.manual_seed(7)
small = {"user_inter_num_interval": "[0,22]", "epochs": 1, "hidden_size": 16, "inner_size": 32, "n_layers": 1,
          "n_heads": 2, "show_progress": False, "log_dir": None, "tensorboard_dir": None,
          "float32_matmul_precision": "high"}
for model in ("DiffuRec", "SASRec"):
    before = state()
    result = run(model, "ml-100k", config_dict=small)
    after = state()
    assert result["test_result"]
    print(*[f"{key}, {anomaly}" for key in before if before[key] != after[key]], end="", flush=True)
"""


def test_a_run_leaves_its_process_as_it_was(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RUN]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": root})
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_an_error_leaves_it_as_it_was_too() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), torch.is_anomaly_enabled()  # type: ignore[index]
    with pytest.raises(ZeroDivisionError), process_as_found():
        torch.manual_seed(1)
        np.random.seed(1)
        torch.autograd.set_detect_anomaly(True)
        raise ZeroDivisionError
    assert torch.equal(torch.get_rng_state(), before[0]) and torch.is_anomaly_enabled() == before[2]
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[index]
