from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from recbole_diffusion.errors import SettingError
from recbole_diffusion.host.checks import pick_device
from recbole_diffusion.host.settings import load_config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be positive, got 0"),
        ({"train_batch_size": -1}, "train_batch_size must be positive, got -1"),
        ({"eval_batch_size": 0}, "eval_batch_size must be positive, got 0"),
        ({"learning_rate": 0}, "learning_rate must be positive, got 0.0"),
        ({"MAX_ITEM_LIST_LENGTH": 0}, "MAX_ITEM_LIST_LENGTH must be positive, got 0"),
        ({"lr_step_size": 0}, "lr_step_size must be positive, got 0"),
        ({"threads": 10**8}, "threads must be positive and at most 1024, got 100000000"),
        ({"metric_decimal_place": 400}, "metric_decimal_place must be from 0 to 15, got 400"),
        ({"checkpoint_dir": ""}, "checkpoint_dir must be a folder, got ''"),
        ({"stopping_step": -1}, "stopping_step must be at least 0, got -1"),
        ({"eval_step": -1}, "eval_step must be at least 0, got -1"),
        ({"eval_step": "often"}, "eval_step must be a whole number, got 'often'"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
        ({"seed": -1}, "seed must be from 0 to 2**32 - 1, got -1"),
        ({"seed": 2**32}, "seed must be from 0 to 2**32 - 1, got 4294967296"),
        ({"learner": "adan"}, "learner must be one of adam, adamw, sgd, adagrad, rmsprop, got 'adan'"),
        ({"state": "loud"}, "state must be one of debug, info, warning, error, critical, got 'loud'"),
        ({"clip_grad_norm": 5}, "clip_grad_norm must be a mapping such as {key: value}"),
        (
            {"clip_grad_norm": {"norm_type": 2}},
            "clip_grad_norm must hold a positive max_norm, as in {max_norm: 5.0}",
        ),
        ({"resume": "absent.pth"}, "resume must be a checkpoint that exists, got 'absent.pth'"),
        ({"metrics": []}, "metrics must hold at least one metric, got []"),
        ({"metrics": "NDGC"}, "metrics must hold names of metrics, such as NDCG, got 'NDGC'"),
        ({"metrics": ["NDCG", "AUC"]}, "metrics must be all of ranking or all of values, got ['NDCG', 'AUC']"),
        ({"metrics": "AUC", "valid_metric": "AUC"}, "metrics must be metrics of ranking with eval_args.mode full"),
        ({"topk": "0"}, "topk must hold positive numbers such as [5, 10], got [0]"),
        ({"topk": []}, "topk must hold positive numbers such as [5, 10], got []"),
        (
            {"topk": [1, 10], "metrics": ["NDCG", "IntraListDiversity"]},
            "topk must hold numbers of at least 2 for IntraListDiversity, got [1, 10]",
        ),
        (
            {"topk": 5},
            "valid_metric must be one of Hit@5, NDCG@5, MRR@5, which metrics and topk=[5] give",
        ),
        (
            {"metrics": ["GAUC", "Hit"], "topk": 5, "valid_metric": "GAUC@5"},
            "valid_metric must be one of GAUC, Hit@5, which metrics and topk=[5] give",
        ),
        (
            {"eval_args": {"mode": "uni"}},
            "eval_args.mode must be full, labeled, uniN or popN",
        ),
        (
            {"eval_args": {"mode": "uni0"}},
            "eval_args.mode must be full, labeled, uniN or popN",
        ),
        (
            {"eval_args": {"mode": {"train": "full"}}},
            "eval_args.mode.train must be left out; eval_args.mode has valid, test",
        ),
        ({"eval_args": {"ordr": "TO"}}, "eval_args.ordr must be left out; eval_args has split, order"),
        ({"eval_args": {"order": "RO"}}, "eval_args.order must be TO (by time) for a sequential model, got 'RO'"),
        ({"eval_args": {"order": "up"}}, "eval_args.order must be RO (random) or TO (by time), got 'up'"),
        ({"eval_args": {"group_by": "item"}}, "eval_args.group_by must be user or none, got 'item'"),
        (
            {"eval_args": {"split": {"LS": "all"}}},
            "eval_args.split must have LS: valid_and_test",
        ),
        (
            {"eval_args": {"split": {"RS": [1, 2]}}},
            "eval_args.split must have RS: three shares",
        ),
        ({"eval_args": {"split": {"RS": [0, 0, 0]}}}, "eval_args.split must have RS: three shares"),
        (
            {"eval_args": {"split": {"XS": 1}}},
            "eval_args.split must be {LS: valid_and_test}, {RS: [0.8, 0.1, 0.1]}, {TS: [0.8, 0.1, 0.1]} or {GTS",
        ),
        ({"eval_args": {"split": {"LS": "test_only", "RS": [8, 1, 1]}}}, "eval_args.split must be {LS"),
        ({"eval_args": "full"}, "eval_args must be a mapping such as {key: value}"),
        (
            {"repeatable": False, "history_in_ranking": "both"},
            "repeatable must be True with history_in_ranking=both; False is the same as history_in_ranking=out",
        ),
        ({"history_in_ranking": "no"}, "history_in_ranking must be one of in, out, both, got 'no'"),
        (
            {"history_in_ranking": "both", "eval_args": {"mode": "uni50"}},
            "history_in_ranking must be in or out with sampled items",
        ),
        (
            {
                **{"history_in_ranking": "out", "threshold": {"rating": 3}, "metrics": ["AUC"], "valid_metric": "AUC"},
                "eval_args": {"mode": "labeled"},
            },
            "history_in_ranking must be in with eval_args.mode labeled, which ranks nothing, got 'out'",
        ),
        ({"loss_type": "MSE"}, "loss_type must be CE or BPR, got 'MSE'"),
        ({"loss_type": "ce"}, "loss_type must be CE or BPR, got 'ce'"),
        (
            {"loss_type": "BPR", "train_neg_sample_args": {"distribution": "skewed"}},
            "train_neg_sample_args.distribution must be one of uniform, popularity, none, got 'skewed'",
        ),
        (
            {"loss_type": "BPR", "train_neg_sample_args": {"sample_num": "ten"}},
            "train_neg_sample_args.sample_num must be a whole number, got 'ten'",
        ),
        (
            {"loss_type": "BPR", "train_neg_sample_args": {"sample_num": 0}},
            "train_neg_sample_args.sample_num must be at least 1, got 0",
        ),
        (
            {"loss_type": "BPR", "train_neg_sample_args": {"dynamic": True}},
            "train_neg_sample_args.candidate_num must be at least 1, got 0",
        ),
        (
            {"loss_type": "BPR", "train_neg_sample_args": {"sample": 1}},
            "train_neg_sample_args.sample must be left out; train_neg_sample_args has distribution, sample_num",
        ),
        ({"load_col": {"inter": "user_id"}}, "load_col.inter must be a list of fields, or '*' for all, got 'user_id'"),
        ({"transform": "crop_itemseq", "eta": 2}, "eta must be from 0 to 1, got 2"),
        ({"transform": "mask_itemseq", "mask_ratio": "x"}, "mask_ratio must be from 0 to 1, got 'x'"),
        (
            {"transform": "mask_itemseq", "mask_ratio": 0.2, "MAX_ITEM_LIST_LENGTH": 4},
            "mask_ratio must be at least 1 / MAX_ITEM_LIST_LENGTH = 0.25, so that an item is masked, got 0.2",
        ),
        ({"transform": "crop_itemseq"}, "transform must be given together with eta, got 'crop_itemseq'"),
        ({"user_inter_num_interval": "[5,"}, "user_inter_num_interval must be an interval such as [5,inf)"),
        ({"val_interval": {"rating": "3"}}, "val_interval must hold intervals such as '[3,inf)', or lists"),
        (
            {"val_interval": {"rating": 3}},
            "val_interval must hold intervals such as '[3,inf)', or lists of values to keep, got",
        ),
        ({"threshold": {"rating": "[3,inf)"}}, "threshold must hold one column and a number, as in {rating: 4}, got"),
        ({"threshold": {"rating": 3, "x": 1}}, "threshold must hold one column and a number, as in {rating: 4}, got"),
        ({"seq_len": {"item_id_list": "5"}}, "seq_len must hold lengths of columns, as in {item_id_list: 50}, got"),
        ({"seq_len": {"item_id_list": 0}}, "seq_len must hold lengths of columns, as in {item_id_list: 50}, got"),
        ({"unused_col": {"inter": "rating"}}, "unused_col must hold lists of columns, as in {inter: [rating]}, got"),
        ({"unload_col": {"inter": 3}}, "unload_col must hold lists of columns, as in {inter: [rating]}, got"),
        ({"preload_weight": {"item_id": ["x"]}}, "preload_weight must hold columns, as in {item_id: item_vector}, got"),
        ({"discretization": {"price": {"method": "ED"}}}, "discretization must hold methods ED or LD, as in {price"),
        ({"gpu_id": "first"}, "gpu_id must be numbers of GPUs such as 0 or 0,1, got 'first'"),
        ({"nproc": "0"}, "nproc must be positive, got 0"),
        ({"nproc": "two"}, "nproc must be a whole number, got 'two'"),
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
        {"val_interval": {"rating": "[3,inf)", "genre": ["a", "b"]}},
        {"state": "warning"},
        {"eval_step": 0},
        {"stopping_step": 0},
        {"lr_step_size": "none"},
        {"metrics": ["gauc", "ndcg"], "valid_metric": "GAUC"},
        {"metrics": ["ItemCoverage", "NDCG"], "valid_metric": "ndcg@20"},
        {"metrics": ["Novelty", "NDCG"], "topk": 1, "valid_metric": "novelty@1"},
        {"metrics": "AUC", "valid_metric": "AUC", "eval_args": {"mode": "uni100"}},
        {"eval_args": {"mode": "pop100", "split": {"TS": [0.8, 0.1, 0.1]}, "group_by": None}},
        {"clip_grad_norm": "{max_norm: 5}"},
        {"threshold": {"rating": 3.5}, "seq_len": {"item_id_list": 5}, "unload_col": {"user": ["age"], "item": "*"}},
        {"discretization": {"price": {"method": "ED", "bucket": 3}, "age": {"method": "LD"}}},
        {"nproc": 1, "world_size": -1, "ip": "localhost", "port": 5678, "offset": "0"},
    ],
)
def test_settings_that_can_be_used(settings: dict[str, Any]) -> None:
    load_config("SASRec", "not-there", config_dict=settings)


def test_general_models_may_be_split_at_random() -> None:
    config = load_config("BPR", "ml-100k", config_dict={"eval_args": {"order": "RO", "split": {"RS": [8, 1, 1]}}})
    assert config["eval_args"]["order"] == "RO"


@pytest.mark.parametrize(("nproc", "world_size"), [(1, -1), (1, 0), (1, 1), (2, -1), (2, 4)])
def test_any_number_of_processes_is_fine(nproc: int, world_size: int) -> None:
    load_config("SASRec", "not-there", config_dict={"nproc": nproc, "world_size": world_size})


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
        with pytest.raises(SettingError, match="gpu_id must be below 2, the number of GPUs that can be seen, got '2'"):
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
