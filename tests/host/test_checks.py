from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from recbole_diffusion.errors import SettingError
from recbole_diffusion.host.checks import check_processes, pick_device
from recbole_diffusion.host.settings import load_config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs=0: a positive number is wanted"),
        ({"train_batch_size": -1}, "train_batch_size=-1: a positive number is wanted"),
        ({"eval_batch_size": 0}, "eval_batch_size=0: a positive number is wanted"),
        ({"learning_rate": 0}, "learning_rate=0.0: a positive number is wanted"),
        ({"MAX_ITEM_LIST_LENGTH": 0}, "MAX_ITEM_LIST_LENGTH=0: a positive number is wanted"),
        ({"lr_step_size": 0}, "lr_step_size=0: a positive number is wanted"),
        ({"stopping_step": -1}, "stopping_step=-1: a number of at least 0 is wanted"),
        ({"eval_step": -1}, "eval_step=-1: a number of at least 0 is wanted"),
        ({"eval_step": "often"}, "eval_step='often': a whole number is wanted"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1: a number of at least 0 is wanted"),
        ({"seed": -1}, "seed=-1: a number of at least 0 is wanted"),
        ({"seed": 2**32}, "seed=4294967296: a number below 2**32 is wanted"),
        ({"learner": "adan"}, "learner='adan': one of adam, adamw, sgd, adagrad, rmsprop, sparse_adam is wanted"),
        ({"state": "loud"}, "state='loud': one of debug, info, warning, error, critical is wanted"),
        ({"clip_grad_norm": 5}, "clip_grad_norm=5: a mapping is wanted"),
        ({"clip_grad_norm": {"norm_type": 2}}, "clip_grad_norm={'norm_type': 2}: max_norm is wanted"),
        ({"resume": "absent.pth"}, "resume='absent.pth': there is no such file"),
        ({"metrics": []}, "metrics=[]: at least one metric is wanted"),
        ({"metrics": "NDGC"}, "metrics=['NDGC']: there is no metric NDGC; did you mean NDCG?"),
        ({"metrics": ["NDCG", "AUC"]}, "metrics=['NDCG', 'AUC']: metrics of ranking and of values cannot be mixed"),
        ({"metrics": "AUC", "valid_metric": "AUC"}, "metrics=['AUC']: metrics of values need eval_args.mode"),
        ({"topk": "0"}, "topk=[0]: positive whole numbers are wanted"),
        ({"topk": []}, "topk=[]: positive whole numbers are wanted"),
        ({"topk": 5}, "valid_metric='NDCG@10': metrics and topk=[5] do not give it; one of Hit@5, NDCG@5, MRR@5"),
        (
            {"metrics": ["GAUC", "Hit"], "topk": 5, "valid_metric": "GAUC@5"},
            "valid_metric='GAUC@5': metrics and topk=[5] do not give it; one of GAUC, Hit@5",
        ),
        ({"eval_args": {"mode": "uni"}}, "eval_args.mode='uni': full, labeled, uniN or popN is wanted"),
        ({"eval_args": {"mode": "uni0"}}, "eval_args.mode='uni0': full, labeled, uniN or popN is wanted"),
        ({"eval_args": {"mode": {"train": "full"}}}, "eval_args.mode.train='full': there is no such setting; known:"),
        ({"eval_args": {"ordr": "TO"}}, "eval_args.ordr='TO': there is no such setting; known: split, order"),
        ({"eval_args": {"order": "RO"}}, "eval_args.order='RO': sequential models need TO"),
        ({"eval_args": {"order": "up"}}, "eval_args.order='up': RO (random) or TO (by time) is wanted"),
        ({"eval_args": {"group_by": "item"}}, "eval_args.group_by='item': user or none is wanted"),
        ({"eval_args": {"split": {"LS": "all"}}}, "eval_args.split={'LS': 'all'}: LS takes valid_and_test"),
        ({"eval_args": {"split": {"RS": [1, 2]}}}, "eval_args.split={'RS': [1, 2]}: RS takes three shares"),
        ({"eval_args": {"split": {"RS": [0, 0, 0]}}}, "eval_args.split={'RS': [0, 0, 0]}: RS takes three shares"),
        ({"eval_args": {"split": {"XS": 1}}}, "eval_args.split={'XS': 1}: {LS: valid_and_test}"),
        ({"eval_args": {"split": {"LS": "test_only", "RS": [8, 1, 1]}}}, "eval_args.split={'LS'"),
        ({"eval_args": "full"}, "eval_args='full': a mapping is wanted"),
        ({"repeatable": False}, "repeatable=False: sequential models need True"),
        ({"loss_type": "MSE"}, "loss_type='MSE': CE or BPR is wanted"),
        ({"loss_type": "ce"}, "loss_type='ce': CE or BPR is wanted"),
        (
            {"loss_type": "BPR", "train_neg_sample_args": {"distribution": "skewed"}},
            "train_neg_sample_args.distribution='skewed': one of uniform, popularity, none is wanted",
        ),
        (
            {"loss_type": "BPR", "train_neg_sample_args": {"sample_num": "ten"}},
            "train_neg_sample_args.sample_num='ten': a whole number is wanted",
        ),
        (
            {"loss_type": "BPR", "train_neg_sample_args": {"sample_num": 0}},
            "train_neg_sample_args.sample_num=0: a number of at least 1 is wanted",
        ),
        (
            {"loss_type": "BPR", "train_neg_sample_args": {"dynamic": True}},
            "train_neg_sample_args.candidate_num=0: a number of at least 1 is wanted",
        ),
        (
            {"loss_type": "BPR", "train_neg_sample_args": {"sample": 1}},
            "train_neg_sample_args.sample=1: there is no such setting; known: distribution, sample_num",
        ),
        ({"load_col": {"inter": "user_id"}}, "load_col.inter='user_id': a list of fields is wanted, or '*' for all"),
        ({"gpu_id": "first"}, "gpu_id='first': numbers of GPUs are wanted"),
        ({"nproc": "2"}, "nproc=2: several processes are not supported yet; run with nproc=1"),
        ({"world_size": 2}, "world_size=2: several processes are not supported yet; run with nproc=1"),
        ({"nproc": "two"}, "nproc='two': a whole number is wanted"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError) as caught:
        load_config("SASRec", "not-there", config_dict=settings)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"learner": "AdamW"},
        {"state": "warning"},
        {"eval_step": 0},
        {"stopping_step": 0},
        {"lr_step_size": "none"},
        {"metrics": ["gauc", "ndcg"], "valid_metric": "GAUC"},
        {"metrics": ["ItemCoverage", "NDCG"], "valid_metric": "ndcg@20"},
        {"metrics": "AUC", "valid_metric": "AUC", "eval_args": {"mode": "uni100"}},
        {"eval_args": {"mode": "pop100", "split": {"TS": [0.8, 0.1, 0.1]}, "group_by": None}},
        {"clip_grad_norm": "{max_norm: 5}"},
        {"nproc": 1, "world_size": -1, "ip": "localhost", "port": 5678, "offset": "0"},
    ],
)
def test_settings_that_can_be_used(settings: dict[str, Any]) -> None:
    load_config("SASRec", "not-there", config_dict=settings)


def test_general_models_may_be_split_at_random() -> None:
    config = load_config("BPR", "ml-100k", config_dict={"eval_args": {"order": "RO", "split": {"RS": [8, 1, 1]}}})
    assert config["eval_args"]["order"] == "RO"


@pytest.mark.parametrize(("nproc", "world_size"), [(1, -1), (1, 0), (1, 1)])
def test_one_process_is_fine(nproc: int, world_size: int) -> None:
    check_processes(nproc, world_size)


class TestDevice:
    @pytest.fixture
    def two_gpus(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        chosen: list[int] = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        return chosen

    @pytest.mark.parametrize(("gpu_id", "index"), [("0", 0), ("1", 1), ("1,0", 1)])
    def test_gpu_id_picks_the_gpu(self, two_gpus: list[int], gpu_id: str, index: int) -> None:
        assert pick_device(gpu_id, use_gpu=True) == torch.device("cuda", index)
        assert two_gpus == [index]

    @pytest.mark.parametrize(("gpu_id", "use_gpu"), [("0", False), ("", True), ("-1", True)])
    def test_cpu_where_no_gpu_is_wanted(self, two_gpus: list[int], gpu_id: str, use_gpu: bool) -> None:
        assert pick_device(gpu_id, use_gpu) == torch.device("cpu")
        assert two_gpus == []

    def test_gpu_that_is_not_there(self, two_gpus: list[int]) -> None:
        with pytest.raises(SettingError, match=r"gpu_id='2': 2 GPU\(s\) can be seen, numbered from 0"):
            pick_device("2", use_gpu=True)

    def test_cpu_where_there_is_no_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert pick_device("3", use_gpu=True) == torch.device("cpu")

    @pytest.mark.parametrize("shown", [None, "5"])
    def test_visible_devices_are_left_alone(self, monkeypatch: pytest.MonkeyPatch, shown: str | None) -> None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if shown is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
        config = load_config("SASRec", "ml-100k", config_dict={"use_gpu": False, "gpu_id": "1"})
        assert config["device"] == torch.device("cpu")
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == shown
