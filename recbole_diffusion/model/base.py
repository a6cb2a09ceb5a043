"""What every diffusion recommender has in common: settings, histories, losses, predictions."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from torch import Tensor, nn

from ..diffusion.noise import HashedNoise, NoiseSource, fresh_noise
from ..diffusion.process import GaussianProcess
from ..diffusion.samplers import REVERSE_VARIANCES, SAMPLERS, ReverseStep, reverse_chain, sub_chain
from ..diffusion.schedules import SCHEDULES, named_betas
from ..diffusion.timesteps import STEP_SAMPLERS, make_step_sampler
from ..errors import SettingError
from .layers import ACTIVATIONS, Encoder
from .losses import catalogue_cross_entropy

# Settings without which no model of this family can be built.
NEEDED = (
    "hidden_size",
    "initializer_range",
    "loss_type",
    "noise_schedule",
    "step_sampler",
    "reverse_sampler",
    "reverse_variance",
    "ddim_eta",
    "diffusion_steps",
    "inference_steps",
)

Draw = Callable[[str, tuple[int, ...]], Tensor]
Denoiser = Callable[[Tensor, Tensor, Draw], Tensor]


def at_step(noise: NoiseSource, timestep: int) -> Draw:
    """The draws of one step: (kind, shape) -> standard normals."""
    return lambda kind, shape: noise(kind, timestep, tuple(shape))


class History(NamedTuple):
    """A batch of histories.

    items : int64 [B, L], padded on the right with 0
    length : int64 [B], at least 1
    real : bool [B, L], true where an item stands; None when every row is full
    """

    items: Tensor
    length: Tensor
    real: Tensor | None


def real_places(items: Tensor, length: Tensor) -> Tensor:
    """Bool [B, L]: where items [B, L] are those of histories of `length` [B], and not what stands behind them."""
    return torch.arange(items.shape[1], device=items.device) < length[:, None]


def require(config: Any, key: str, holds: bool, wanted: str) -> None:
    """Raise a `SettingError` that names `key` and its value unless `holds`."""
    if not holds:
        raise SettingError(key, config[key], wanted)


def one_of(config: Any, key: str, names: Any) -> None:
    """Raise a `SettingError` unless the setting `key` is one of `names`."""
    require(config, key, config[key] in names, f"one of {', '.join(names)} is wanted")


def check_encoder(config: Any) -> None:
    """Check the settings of `DiffusionRecommender.make_encoder`.

    Raises
    ------
    SettingError
    """
    for key in ("n_heads", "n_layers", "inner_size"):
        require(config, key, config[key] > 0, "a positive number is wanted")
    heads = config["n_heads"]
    require(config, "hidden_size", config["hidden_size"] % heads == 0, f"a multiple of n_heads={heads} is wanted")
    for key in ("hidden_dropout_prob", "attn_dropout_prob"):
        require(config, key, 0 <= config[key] < 1, "a number from 0 to below 1 is wanted")
    one_of(config, "hidden_act", tuple(ACTIVATIONS))
    if config["compile"] and config["device"].type == "cpu":
        compilers = (os.environ.get("CXX"), "g++", "clang++", "cl")
        found = any(name and shutil.which(name) for name in compilers)
        require(config, "compile", found, "a C++ compiler (g++ or clang++) is wanted on the CPU, or False")


class DiffusionRecommender(SequentialRecommender):
    """Base of the models that noise the next item's embedding and restore it from the history.

    A subclass gives `denoiser`, its network. Training, the reverse process, full ranking and sampled evaluation follow.

    Parameters
    ----------
    config : recbole Config
        The keys are explained in `properties/model/*.yaml`.
    dataset : recbole Dataset
        The training data; only the number of items is read.
    """

    # Sampled evaluation hands over all candidates at once, so that no user's rows are cut apart and denoised twice.
    predicts_whole_batches: ClassVar[bool] = True
    # Whether `cuda_graphs` may record training steps: the loss never waits for the GPU, draws with torch alone, and
    # keeps nothing from step to step but in tensors. A recording repeats for ever what Python did once.
    records_steps: ClassVar[bool] = False

    @classmethod
    def check_settings(cls, config: Any) -> None:
        """Refuse, before any data is loaded, what no model of this family can use.

        Raises
        ------
        SettingError
            Naming the key, its value and what would do.
        """
        for key in NEEDED:
            require(config, key, config[key] is not None, "the yaml of the model has to give a value")
        require(config, "hidden_size", config["hidden_size"] > 0, "a positive number is wanted")
        require(config, "hidden_size", config["hidden_size"] % 2 == 0, "an even number is wanted")
        require(config, "initializer_range", config["initializer_range"] > 0, "a positive number is wanted")
        one_of(config, "loss_type", ("CE", "BPR"))
        one_of(config, "noise_schedule", SCHEDULES)
        one_of(config, "step_sampler", STEP_SAMPLERS)
        one_of(config, "reverse_sampler", SAMPLERS)
        one_of(config, "reverse_variance", REVERSE_VARIANCES)
        require(config, "ddim_eta", 0 <= config["ddim_eta"] <= 1, "a number from 0 to 1 is wanted")
        steps = config["diffusion_steps"]
        require(config, "diffusion_steps", steps > 0, "a positive number is wanted")
        require(
            config,
            "inference_steps",
            1 <= config["inference_steps"] <= steps,
            f"a number from 1 to diffusion_steps={steps} is wanted",
        )
        try:
            named_betas(config["noise_schedule"], steps)
        except ValueError as error:
            raise SettingError("noise_schedule", config["noise_schedule"], str(error)) from None

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.check_settings(config)
        self.hidden_size: int = config["hidden_size"]
        self.loss_type: str = config["loss_type"]
        self.process = GaussianProcess(named_betas(config["noise_schedule"], config["diffusion_steps"]))
        self.step_sampler = make_step_sampler(config["step_sampler"], config["diffusion_steps"])
        self.reverse_settings = {
            "sampler": config["reverse_sampler"],
            "reverse_variance": config["reverse_variance"],
            "eta": config["ddim_eta"],
        }
        self.timesteps = sub_chain(config["diffusion_steps"], config["inference_steps"])
        self.evaluation_noise = HashedNoise(config["seed"])
        self.diffuses: bool = config["diffusion"] is not False
        self.normalizes_x_0: bool = bool(config["normalize_x_0"])
        self.inference_seeds = 1
        self.item_embedding = nn.Embedding(self.n_items, self.hidden_size)
        nn.init.normal_(self.item_embedding.weight, std=config["initializer_range"])
        self.eval_batch_size: int = config["eval_batch_size"]
        # The first candidate; where padding is an ordinary item of the softmax, it is 0.
        self.first_item = 1
        self.pads_to: int | None = None

    def make_encoder(self, config: Any) -> Encoder:
        """The transformer that the settings describe, compiled where `compile` says so."""
        encoder = Encoder(
            config["n_layers"],
            hidden_size=config["hidden_size"],
            n_heads=config["n_heads"],
            inner_size=config["inner_size"],
            hidden_dropout=config["hidden_dropout_prob"],
            attn_dropout=config["attn_dropout_prob"],
            hidden_act=config["hidden_act"],
            layer_norm_eps=config["layer_norm_eps"],
        )
        if config["compile"]:
            # Batches differ in length, and each length would be compiled by itself.
            encoder.compile(dynamic=True)
        return encoder

    def history(self, interaction: Any) -> History:
        """Read the histories of a batch, cut to the longest of them."""
        length = interaction[self.ITEM_SEQ_LEN].clamp(min=1)
        items = interaction[self.ITEM_SEQ]
        if self.pads_to is not None:
            items = F.pad(items, (0, self.pads_to - items.shape[1]))
        elif items.device.type == "cpu" or not self.training:
            # On a GPU looking at the lengths would stall training, whose batches come cut already.
            items = items[:, : int(length.max())]
            if bool((length == items.shape[1]).all()):
                return History(items, length, None)
        return History(items, length, real_places(items, length))

    def denoiser(self, history: History, draw: Draw) -> Denoiser:
        """The network for one batch of histories; what does not depend on the step is computed here, once.

        Parameters
        ----------
        history : History
        draw : Draw
            Gives the normal draws that belong to no single step.

        Returns
        -------
        Denoiser
            (x_t [B, d], timestep int64 [B], draw) -> x0_hat [B, d]; `draw` gives the step's own normal draws.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a method 'denoiser(history, draw)'")

    def calculate_loss(
        self, interaction: Any, timestep: Tensor | None = None, noise: NoiseSource | None = None
    ) -> Tensor:
        """Training loss, a scalar: how well x0_hat, restored from one drawn step, picks out the next item.

        Parameters
        ----------
        interaction : recbole Interaction
        timestep : int64 Tensor [B], optional
            The diffusion steps; drawn by the step sampler if not given.
        noise : NoiseSource, optional
            Gives every normal draw; of kind "x_t" [B, d] here, of the model's own kinds in its denoiser.
        """
        history = self.history(interaction)
        draw = at_step(noise or self.training_noise(), 0)
        timestep, weight = self.draw_timestep(len(history.length), timestep)
        x_t = self.noised(self.x_0(interaction[self.POS_ITEM_ID]), timestep, draw)
        x0_hat = self.denoiser(history, draw)(x_t, timestep, draw)
        loss = self.item_loss(x0_hat, interaction)
        self.step_sampler.update(timestep, loss.detach())
        return (weight * loss).mean()

    def x_0(self, items: Tensor) -> Tensor:
        """Where the process starts, [..., d], for items [...]: their embeddings, normalised with `normalize_x_0`."""
        embedded = self.item_embedding(items)
        return F.layer_norm(embedded, embedded.shape[-1:]) if self.normalizes_x_0 else embedded

    def noised(self, x_0: Tensor, timestep: Tensor, draw: Draw) -> Tensor:
        """Training's x_t [B, d] ~ q(x_t | x_0); zeros with `diffusion: False`."""
        if not self.diffuses:
            return torch.zeros_like(x_0)
        return self.process.q_sample(x_0, timestep, draw("x_t", x_0.shape))

    def reverse(self, history: History, noise: NoiseSource) -> list[ReverseStep]:
        """The reverse chain from x_T ~ N(0, I), step by step; the x of the last step is the restored x_0.

        With `diffusion: False` it is a single step from zeros.
        """
        denoise = self.denoiser(history, at_step(noise, 0))
        shape = (len(history.length), self.hidden_size)
        if not self.diffuses:
            zeros = self.item_embedding.weight.new_zeros(shape)
            x0_hat = denoise(zeros, history.length.new_zeros(shape[:1]), at_step(noise, 0))
            return [ReverseStep(0, x0_hat, x0_hat)]

        def network(x_t: Tensor, timestep: int) -> Tensor:
            steps = torch.full(shape[:1], timestep, device=x_t.device)
            return denoise(x_t, steps, at_step(noise, timestep))

        def draw(timestep: int) -> Tensor:
            return noise("reverse", timestep, shape)

        x_T = noise("x_T", self.timesteps[0], shape)
        chain = reverse_chain(network, x_T, self.process, self.timesteps, noise=draw, **self.reverse_settings)
        return list(chain)

    def draws(self, history: History, noise: NoiseSource | None = None) -> Tensor:
        """Restored x_0 [S, B, d]: one draw from `noise`, or `inference_seeds` of the repeatable noise."""
        sources = [noise] if noise else [self.inference_noise(history, draw) for draw in range(self.inference_seeds)]
        return torch.stack([self.reverse(history, source)[-1].x for source in sources])

    def score(self, draws: Tensor) -> Tensor:
        """Round draws of x_0 [S, B, d] to items: scores [B, V], the mean over the draws."""
        return F.linear(draws.mean(dim=0), *self.rounding_parameters())

    def rounding_parameters(self) -> tuple[Tensor, Tensor | None]:
        """Weight [V, d] and bias [V] of the rounding: the item embeddings and none, a plain dot product."""
        return self.item_embedding.weight, None

    def training_noise(self) -> NoiseSource:
        """Normal draws from torch's global generator, as training wants them."""
        return fresh_noise(self.item_embedding.weight.device, self.item_embedding.weight.dtype)

    def inference_noise(self, history: History, draw: int = 0) -> NoiseSource:
        """Normal draws that depend on the seed, each history, the step and `draw` alone."""
        return self.evaluation_noise.source(self.evaluation_noise.history_keys(history.items), draw)

    def item_loss(self, x: Tensor, interaction: Any) -> Tensor:
        """Loss [B] of scoring items by `x` [B, d]: cross-entropy over all items, or BPR on the drawn negative."""
        target = interaction[self.POS_ITEM_ID]
        if self.loss_type == "BPR":
            negative = interaction[self.NEG_ITEM_ID]
            return -F.logsigmoid(self.item_scores(x, target) - self.item_scores(x, negative))
        return catalogue_cross_entropy(x, *self.rounding_parameters(), target, self.first_item)

    def item_scores(self, x: Tensor, items: Tensor) -> Tensor:
        """Score [B] of one item a row, `items` [B], by `x` [B, d]."""
        weight, bias = self.rounding_parameters()
        scores = (x * weight[items]).sum(dim=-1)
        return scores if bias is None else scores + bias[items]

    def draw_timestep(self, rows: int, given: Tensor | None) -> tuple[Tensor, Tensor]:
        """The training steps, `given` or drawn: timestep int64 [B], weight [B] that keeps the objective unbiased.

        With `diffusion: False` there are none: all are 0.
        """
        if not self.diffuses:
            given = torch.zeros(rows, dtype=torch.int64, device=self.item_embedding.weight.device)
        if given is not None:
            return given, torch.ones(rows, device=given.device)
        return self.step_sampler.sample(rows, self.item_embedding.weight.device)

    def full_sort_predict(self, interaction: Any, noise: NoiseSource | None = None) -> Tensor:
        """Scores [B, V] of all items: iterative denoising, then rounding.

        Parameters
        ----------
        interaction : recbole Interaction
        noise : NoiseSource, optional
            Gives every random draw; by default a function of seed, history, step and draw.
        """
        return self.score(self.draws(self.history(interaction), noise))

    def predict(self, interaction: Any) -> Tensor:
        """Scores [B] of one candidate a row; each distinct history is denoised once."""
        items, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        keys = torch.stack([self.evaluation_noise.history_keys(items), length], dim=1)
        _, row_of = torch.unique(keys, dim=0, return_inverse=True)
        first = torch.full((int(row_of.max()) + 1,), len(row_of), device=row_of.device)
        first = first.scatter_reduce(0, row_of, torch.arange(len(row_of), device=row_of.device), "amin")
        scores = [
            self.full_sort_predict({self.ITEM_SEQ: items[rows], self.ITEM_SEQ_LEN: length[rows]})
            for rows in first.split(self.eval_batch_size)
        ]
        return torch.cat(scores)[row_of, interaction[self.ITEM_ID]]
