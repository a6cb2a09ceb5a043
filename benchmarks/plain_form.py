"""`python -m benchmarks.plain_form`: DiffuRec as here against DiffuRec in plain code, by the clock, in turn."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.command import print_measured
from benchmarks.machine import device_name
from benchmarks.speed import recboles_own_way, recboles_trainer
from benchmarks.timing import some_users, time_evaluation, time_training
from recbole_diffusion.cli.exit_codes import run_command
from recbole_diffusion.diffusion.noise import FreshNoise, Noise
from recbole_diffusion.evaluation.environment import versions
from recbole_diffusion.host.settings import load_config
from recbole_diffusion.inference.sampling import overridden
from recbole_diffusion.model.diffurec import DiffuRec
from recbole_diffusion.model.layers import EncoderBlock
from recbole_diffusion.training.memory import keep_freed_memory
from recbole_diffusion.training.run import prepare

USERS = 2048
BATCHES = 10
ROUNDS = 2
# Of the plain form, whose batches all have one length.
PLAIN_BATCHES = 5
STEPS = (1, 32)

HELP = f"""\
Time DiffuRec as it is here against the same network in plain code: every history padded to MAX_ITEM_LIST_LENGTH,
torch's dropout, every place computed, the cross-entropy over all scores, RecBole's dataset, loaders and trainer, and
all {STEPS[-1]} reverse steps. Plain, here, plain, in one process. {USERS} users are evaluated.

usage: python -m benchmarks.plain_form --dataset=NAME [--config_files=FILE] [--KEY=VALUE ...]
"""


class PlainDiffuRec(DiffuRec):
    """DiffuRec with the parameters of `DiffuRec`, so that both can be compared, and all else written out plainly."""

    def restore(self, x_t: Tensor, timestep: Tensor, items: Tensor, length: Tensor, noise: Noise) -> Tensor:
        """x0_hat [B, d] by x_t [B, d], timestep [B] and histories [B, L], padded on the right, of `length` [B]."""
        real = torch.arange(items.shape[1], device=items.device) < length[:, None]
        z = self.embedding_norm(self.dropped(self.item_embedding(items), self.embedding_dropout.probability))
        spread = self.noise_scale * (1 + noise.normal("lambda", tuple(z.shape)))
        z = z + spread * (x_t + self.step_mlp(timestep))[:, None]
        for block in self.encoder.blocks:
            z = self.block(block, z, real)
        newest = z[torch.arange(len(z), device=z.device), length - 1]
        return self.output_norm(self.dropped(newest, self.output_dropout.probability))

    def block(self, block: EncoderBlock, z: Tensor, real: Tensor) -> Tensor:
        attention, dropout = block.attention, block.dropout.probability
        rows, places, width = z.shape
        normed = block.attention_norm(z)
        parts = (attention.query(normed), *attention.key_value(normed).chunk(2, dim=-1))
        query, key, value = (part.view(rows, places, attention.n_heads, -1).transpose(1, 2) for part in parts)
        scores = query @ key.transpose(-1, -2) / (width // attention.n_heads) ** 0.5
        weights = scores.masked_fill(~real[:, None, None], float("-inf")).softmax(dim=-1)
        mixed = self.dropped(weights, attention.dropout.probability) @ value
        z = z + self.dropped(attention.output(mixed.transpose(1, 2).reshape(rows, places, width)), dropout)
        inner = self.dropped(block.activation(block.expand(block.feed_forward_norm(z))), dropout)
        return self.dropped(z + self.dropped(block.contract(inner), dropout), dropout)

    def dropped(self, x: Tensor, probability: float) -> Tensor:
        return F.dropout(x, probability, self.training)

    def calculate_loss(self, interaction: Any, noise: Noise | None = None) -> Tensor:
        """Mean cross-entropy of x0_hat over all items; its arguments are those of `DiffuRec`."""
        noise = noise or FreshNoise(self.device)
        items, length, target = (interaction[key] for key in (self.ITEM_SEQ, self.ITEM_SEQ_LEN, self.POS_ITEM_ID))
        x_0 = self.item_embedding(target)
        timestep, _ = self.step_sampler.sample((len(target),), noise)
        x_t = self.process.sample(x_0, timestep, noise.normal("x_t", tuple(x_0.shape)))
        x0_hat = self.restore(x_t, timestep, items, length, noise)
        return F.cross_entropy((x0_hat @ self.item_embedding.weight.T)[:, 1:], target - 1)

    def full_sort_predict(self, interaction: Any, noise: Noise | None = None) -> Tensor:
        """Scores [B, V] after every step of the reverse process."""
        noise = noise or FreshNoise(self.device)
        items, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        last = self.process.diffusion_steps - 1
        x = noise.at(last).normal("x_T", (len(items), self.hidden_size))
        for step in range(last, -1, -1):
            here = noise.at(step)
            x0_hat = self.restore(x, torch.full((len(items),), step, device=items.device), items, length, here)
            x = self.process.step(x0_hat, x, step, step - 1 if step else None, here)
        return x @ self.item_embedding.weight.T


class Rates(NamedTuple):
    """Training rows a second, and users a second by reverse steps."""

    train: float
    evaluation: dict[int, float]


def _here(config_files: Sequence[str], settings: Mapping[str, Any]) -> Rates:
    config = load_config(DiffuRec, None, config_files, settings)
    prepared = prepare(config)
    test = some_users(config, prepared.test_data, USERS)
    prepared.trainer.eval_collector.data_collect(prepared.train_data)
    evaluation = {}
    for steps in STEPS:
        with overridden(prepared.model, steps, seed=None):
            evaluation[steps] = len(test._dataset) / time_evaluation(prepared.trainer, test)
    return Rates(time_training(prepared.trainer, prepared.train_data, BATCHES, ROUNDS).samples_per_s, evaluation)


def _plain(trainer: Any, train_data: Any, test_data: Any) -> Rates:
    with recboles_own_way(anomaly_detection=False):
        training = time_training(trainer, train_data, PLAIN_BATCHES, ROUNDS)
        users = len(test_data._dataset) / time_evaluation(trainer, test_data)
    return Rates(training.samples_per_s, {STEPS[-1]: users})


def measure(config_files: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Time the plain form, DiffuRec as here, and the plain form again.

    Returns
    -------
    dict
        Plain data: rows and users a second of each form, and how often as many they are here.
    """
    with TemporaryDirectory() as folder:
        nowhere = {"checkpoint_dir": folder, "log_dir": None, "tensorboard_dir": None}
        # Without work on padding; the authors' own mask needs all of it.
        settings = {**settings, **nowhere, "attention_mask": "keys", "length_batching": True}
        config = load_config(PlainDiffuRec, None, config_files, {**settings, "diffusion_steps": STEPS[-1]})
        recboles = recboles_trainer(config, USERS)
        before, here, after = _plain(*recboles), _here(config_files, settings), _plain(*recboles)
    plain = [mean((before.train, after.train)), mean(form.evaluation[STEPS[-1]] for form in (before, after))]
    sizes = ("hidden_size", "n_layers", "train_batch_size", "MAX_ITEM_LIST_LENGTH", "seed")
    return {
        "dataset": config["dataset"],
        "train_samples_per_s": {"here": round(here.train, 1), "plain": [round(p.train, 1) for p in (before, after)]},
        "eval_users_per_s": {
            **{f"here, steps {steps}": round(users, 1) for steps, users in here.evaluation.items()},
            "plain": [round(form.evaluation[STEPS[-1]], 1) for form in (before, after)],
        },
        "times_as_quick": {
            "training": round(here.train / plain[0], 1),
            **{f"evaluation, steps {steps}": round(users / plain[1], 1) for steps, users in here.evaluation.items()},
        },
        "settings": {key: config[key] for key in sizes},
        "versions": versions(),
        "device": device_name(config["device"]),
    }


def run(argv: Sequence[str]) -> None:
    """Do what the command line says, as `print_measured`."""
    print_measured("python -m benchmarks.plain_form", HELP, measure, argv)


if __name__ == "__main__":
    # As the command line's own process does.
    keep_freed_memory()
    sys.exit(run_command(lambda: run(sys.argv[1:]), debug="--debug" in sys.argv))
