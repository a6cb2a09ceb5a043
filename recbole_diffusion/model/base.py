"""What every diffusion recommender has in common: histories, noise, training, the reverse process, predictions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from torch import Tensor, nn

from ..common.setting import Setting, at_least, one_of, positive, probability, share, switch, table_of, within
from ..diffusion.guidance import Network, choose_rows, guided
from ..diffusion.noise import FreshNoise, HashedNoise, Noise, Shape
from ..diffusion.process import NoProcess, Process
from ..diffusion.samplers import Denoise, ReverseStep, ancestral
from ..diffusion.timesteps import OneStep, StepSampler
from ..errors import ModelError, SettingError, UserError
from .layers import ACTIVATIONS, Encoder, HistoryEncoder, item_table
from .losses import catalogue_cross_entropy, place_cross_entropy
from .sharing import Batch, History, Processes, counted_places, rows_of
from .similarity import SIMILARITIES, item_queries, item_vectors, scores_of
from .splitting import SplitEmbedding

# Noises of a history that are held at once.
MOST_SEEDS = 10_000

_logger = logging.getLogger(__name__)


class TrainingStep(NamedTuple):
    """What `losses` may look at: the rows that this process computes, at the timesteps that were drawn for them.

    By itself a process computes the whole batch; B is the number of its rows. Shapes are those of a model with one
    target a row; with a target at every place [B] is [B, L].

    interaction : the batch as RecBole gives it
    history : History
    target : int64 [B], the next items
    timestep : int64 or float [B]
    weight : [B], by which the timestep sampler weights the losses of each row
    x_0, x_t : where the process starts, and the noised state
    noise_used : the random numbers that made x_t
    condition : what `denoise` was given
    output : what `denoise` gave
    x0_hat : x_0 by that output
    noise : Noise, for a loss that has random numbers of its own
    batch : Batch, through which a loss reads what it takes from the other rows of the batch
    """

    interaction: Any
    history: History
    target: Tensor
    timestep: Tensor
    weight: Tensor
    x_0: Tensor
    x_t: Tensor
    noise_used: Tensor
    condition: Any
    output: Any
    x0_hat: Any
    noise: Noise
    batch: Batch


class Losses(NamedTuple):
    """Losses of a batch.

    rows : [B], [B, L] or a scalar; weighted by the timestep sampler and averaged over rows and real places. A scalar is
        a mean over the rows at hand, or the same in every process that shares the batch
    unweighted : the same shapes; averaged as it is and added. None for nothing
    learns_from : [B] or [B, L], by which the timestep sampler learns; None for `rows`
    """

    rows: Tensor
    unweighted: Tensor | None = None
    learns_from: Tensor | None = None


class Chain(NamedTuple):
    """A reverse process: the state from which it started, and its steps in order."""

    start: Tensor
    steps: list[ReverseStep]

    @property
    def x_0(self) -> Tensor:
        """The last state."""
        return self.steps[-1].x


def places(items: Tensor, length: Tensor) -> Tensor:
    """Bool [B, L]: where items [B, L] are those of histories of `length` [B], and not what stands behind them."""
    return torch.arange(items.shape[1], device=items.device) < length[:, None]


def next_items(items: Tensor, length: Tensor, last: Tensor) -> Tensor:
    """The next item at each place: int64 [B, L].

    That is the history shifted by one, then `last` [B], and 0 behind it; for histories [B, L] of `length` [B].
    """
    return F.pad(items[:, 1:], (0, 1)).scatter(1, (length - 1)[:, None], last[:, None])


def at_last(values: Tensor, length: Tensor) -> Tensor:
    """What stands at the last place of each history: [B, ...] of values [B, L, ...] and `length` [B]."""
    return values[torch.arange(len(length), device=length.device), length - 1]


# The settings of `make_encoder`.
ENCODER: dict[str, Setting] = {
    "n_layers": positive("int"),
    "n_heads": positive("int"),
    "inner_size": positive("int"),
    "hidden_dropout_prob": probability(),
    "attn_dropout_prob": probability(),
    "hidden_act": one_of(tuple(ACTIVATIONS)),
    "layer_norm_eps": positive("float"),
}


def make_encoder(config: Any, layers: str = "n_layers", **block: bool) -> Encoder:
    """The transformer that the settings of `ENCODER` describe.

    Parameters
    ----------
    config : recbole Config
    layers : str
        The setting that gives the number of blocks.
    **block : bool
        `post_norm` and `rotary` of `EncoderBlock`.
    """
    return Encoder(
        config[layers],
        hidden_size=config["hidden_size"],
        n_heads=config["n_heads"],
        inner_size=config["inner_size"],
        hidden_dropout=config["hidden_dropout_prob"],
        attn_dropout=config["attn_dropout_prob"],
        hidden_act=config["hidden_act"],
        layer_norm_eps=config["layer_norm_eps"],
        **block,
    )


def make_history_encoder(config: Any, n_layers: int, n_heads: int, residual: bool = False) -> HistoryEncoder:
    """The blocks of DreamRec, or with `residual` of PreferDiff, with the width and the dropout of the settings."""
    return HistoryEncoder(
        n_layers,
        hidden_size=config["hidden_size"],
        n_heads=n_heads,
        hidden_dropout=config["hidden_dropout_prob"],
        attn_dropout=config["attn_dropout_prob"],
        residual=residual,
    )


def mean_by_row(losses: Tensor, step: TrainingStep) -> Tensor:
    """Losses [B, L] weighted so that their mean over all real places is the mean over rows of each row's mean.

    Losses [B] of a model with one target a row stay as they are.
    """
    if losses.dim() < 2:
        return losses
    places_of_rows = len(step.batch) * step.history.length.to(losses.dtype)
    return losses * (counted_places(step.batch.history) / places_of_rows)[:, None]


def check_table(model: type, config: Any) -> None:
    """Check the settings in a model's table: each alone, and those of a network against each other.

    Raises
    ------
    SettingError
    """
    table = table_of(model)
    for key, setting in table.items():
        setting.check(key, config[key])
    if "n_heads" in table and config["hidden_size"] % config["n_heads"]:
        raise SettingError("hidden_size", config["hidden_size"], must=f"be a multiple of n_heads={config['n_heads']}")


class DiffusionRecommender(SequentialRecommender):
    """Base of the models that noise the next item and restore it from the history.

    A model of vectors derives from `GaussianRecommender`, one of ids from `DiscreteRecommender`; these say what
    the state is. It then has two methods to write, `encode` and `denoise`, and `losses` where its loss is its own.
    Training, the reverse process, guidance, the off-switch, full ranking and sampled evaluation follow.

    Parameters
    ----------
    config : recbole Config
        The keys are explained in `properties/model/*.yaml`, and stated in the class's table `settings`.
    dataset : recbole Dataset
        The training data; only the number of items is read.
    """

    settings: ClassVar[Mapping[str, Setting]] = {
        "hidden_size": Setting("int", "be even and positive", lambda size: size > 0 and size % 2 == 0),
        "initializer_range": positive("float"),
        "diffusion": switch(),
        "loss_type": one_of(("CE", "BPR")),
        "similarity": one_of(SIMILARITIES),
        "similarity_temperature": positive("float"),
        "guidance_drop": share(),
        "guidance_scale": at_least(0, "float", at_inference=True),
        "inference_steps": positive("int", at_inference=True),
        "inference_seeds": within(1, MOST_SEEDS, "int", at_inference=True),
    }
    # "prefixes": a training row for each interaction. "sequences": rows with a target at every place.
    trains_on: ClassVar[str] = "prefixes"
    # See `sharing.History`; a run sets it.
    places_a_row: float | None = None
    # Sampled evaluation hands over all candidates at once, so that no user's rows are cut apart and denoised twice.
    predicts_whole_batches: ClassVar[bool] = True
    # Whether `cuda_graphs` may record training steps: the loss never waits for the GPU, draws with torch alone, and
    # keeps nothing from step to step but in tensors. A recording repeats for ever what Python did once. A class says so
    # for itself, not for those that derive from it.
    records_steps: ClassVar[bool] = False
    # The values that settings must have so that `split_items` may split the items; None where it may not. A class says
    # so for itself alone: it looks items up in `item_embedding`, all of its processes as often, and scores them by
    # `ranking_loss`, `logits` and `log_probabilities`; nothing else of it is as long as the catalogue.
    splits_items: ClassVar[Mapping[str, Any] | None] = None

    @classmethod
    def check_settings(cls, config: Any) -> None:
        """Refuse, before any data is loaded, what the model cannot use.

        Raises
        ------
        SettingError
            Naming the key, what must hold, and the value.
        """
        check_table(cls, config)
        guidable = cls.unconditional is not DiffusionRecommender.unconditional
        for key in ("guidance_drop", "guidance_scale"):
            if config[key] and not guidable:
                raise SettingError(key, config[key], must=f"be 0, as {cls.__name__} has no unconditional form")
        if cls.trains_on == "sequences" and config["loss_type"] != "CE":
            # A negative is drawn for each row.
            raise SettingError("loss_type", config["loss_type"], must=f"be CE, as {cls.__name__} trains every place")

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.check_settings(config)
        self.hidden_size: int = config["hidden_size"]
        self.loss_type: str = config["loss_type"]
        self.similarity: str = config["similarity"]
        self.similarity_temperature: float = config["similarity_temperature"]
        self.guidance_drop: float = config["guidance_drop"]
        self.guidance_scale: float = config["guidance_scale"]
        if self.guidance_scale and not self.guidance_drop:
            _logger.warning(
                "guidance_scale=%g moves away from a placeholder that guidance_drop=0 never trains", self.guidance_scale
            )
        self.inference_seeds: int = config["inference_seeds"]
        self.use_diffusion: bool = config["diffusion"]
        process = self.make_process(config)
        self.process = process if self.use_diffusion else self.no_process(process)
        self.step_sampler = self.make_step_sampler(config) if self.use_diffusion else OneStep()
        try:
            self.timesteps = self.process.chain(config["inference_steps"])
        except ValueError as error:
            raise UserError(str(error)) from None
        self.evaluation_noise = HashedNoise(config["seed"])
        self.item_embedding: nn.Embedding | SplitEmbedding = item_table(self.n_items, config)
        self.eval_batch_size: int = config["eval_batch_size"]
        # Where padding is an ordinary item of the softmax, it is 0.
        self.first_candidate = 1
        self.pad_length: int | None = None
        self.batch_of: Callable[[History, Noise], Batch] = Batch
        self.noise_generator: torch.Generator | None = None

    # What a kind of model says of its state.

    def make_process(self, config: Any) -> Process:
        """The process that the settings describe."""
        raise ModelError(f"{type(self).__name__} needs a method 'make_process(config)'")

    def no_process(self, process: Process) -> Process:
        """What takes the place of `process` with `diffusion: False`."""
        return NoProcess(has_end=process.has_end)

    def make_step_sampler(self, config: Any) -> StepSampler:
        """How training draws its timesteps."""
        raise ModelError(f"{type(self).__name__} needs a method 'make_step_sampler(config)'")

    def x_start(self, items: Tensor, noise: Noise) -> Tensor:
        """Where the process starts for target items [...]."""
        raise ModelError(f"{type(self).__name__} needs a method 'x_start(items, noise)'")

    def seen(self, x_t: Tensor) -> Tensor:
        """What of x_t the network is given; by default all of it."""
        return x_t

    def to_x_0(self, output: Any, x_t: Tensor, timestep: Tensor) -> Any:
        """The prediction x0_hat, by what `denoise` gave; by default the same."""
        return output

    def state_shape(self, history: History) -> Shape:
        """Shape of the state at inference."""
        raise ModelError(f"{type(self).__name__} needs a method 'state_shape(history)'")

    def readout(self, x: Tensor, history: History) -> Tensor:
        """What is scored of a state, one entry a row: all of it, or of a state [B, L, d] the newest place."""
        return at_last(x, history.length) if x.dim() == 3 else x

    def points(self, x: Tensor) -> Tensor:
        """What `readout` gave as points [..., d] among the item embeddings, to be drawn and measured."""
        return x

    # What a model says of its network.

    def encode(self, history: History, noise: Noise) -> Any:
        """The condition of a batch of histories: all that does not depend on x_t and the timestep, computed once.

        Returns
        -------
        Tensor [B, ...], or a tuple of such
        """
        raise ModelError(f"{type(self).__name__} needs a method 'encode(history, noise)'")

    def denoise(self, x_t: Tensor, timestep: Tensor, condition: Any, noise: Noise) -> Any:
        """What the network predicts, from x_t [B, ...] at timestep [B] and the condition."""
        raise ModelError(f"{type(self).__name__} needs a method 'denoise(x_t, timestep, condition, noise)'")

    def unconditional(self, condition: Any) -> Any:
        """The condition that says nothing, for guidance: like `condition`, or one row to be broadcast.

        Only a model that writes this method can be guided.
        """
        raise ModelError(f"{type(self).__name__} needs a method 'unconditional(condition)' to be guided")

    def end_point(self, condition: Any, history: History) -> Tensor | None:
        """Where the process ends, by its `end`; None for a process without an end."""
        return None

    def losses(self, step: TrainingStep) -> Losses:
        """The losses of a batch."""
        raise ModelError(f"{type(self).__name__} needs a method 'losses(step)'")

    @property
    def two_gradients_by(self) -> str | None:
        """The setting by which the losses take two gradients of one pass; None where they take one."""
        return None

    def all_losses(self, step: TrainingStep) -> Losses:
        """`losses`, with what every model of the kind can add to its own."""
        return self.losses(step)

    # Histories and noise.

    def history(self, interaction: Any) -> History:
        """Read the histories of a batch, cut to the longest of them."""
        length = interaction[self.ITEM_SEQ_LEN].clamp(min=1)
        items = interaction[self.ITEM_SEQ]
        if self.pad_length is not None:
            items = F.pad(items, (0, self.pad_length - items.shape[1]))
        elif items.device.type == "cpu" or not self.training:
            # On a GPU looking at the lengths would stall training, whose batches come cut already.
            items = items[:, : int(length.max())]
            if bool((length == items.shape[1]).all()):
                return History(items, length, None, self.places_a_row)
        return History(items, length, places(items, length), self.places_a_row)

    def targets(self, history: History, interaction: Any) -> Tensor:
        """The next items: int64 [B], or [B, L] for a model that trains on sequences, the history shifted by one."""
        last = interaction[self.POS_ITEM_ID]
        return last if self.trains_on == "prefixes" else next_items(history.items, history.length, last)

    def training_noise(self) -> Noise:
        """Random numbers from torch's global generator, as training takes them, or from that of `share_batches`."""
        weight = self.item_embedding.weight
        return FreshNoise(weight.device, weight.dtype, self.noise_generator)

    def share_batches(self, batch_of: Callable[[History, Noise], Batch], generator: torch.Generator) -> None:
        """Compute some rows of each training batch from here on; other processes compute the others.

        Parameters
        ----------
        batch_of : callable
            Makes the `Batch` that says which.
        generator : torch.Generator
            In the same state in all these processes, on the device of the model.
        """
        self.batch_of, self.noise_generator = batch_of, generator

    @property
    def own_items(self) -> SplitEmbedding | None:
        """The items of this process, where they are split; None where it has all."""
        return self.item_embedding if isinstance(self.item_embedding, SplitEmbedding) else None

    def split(self, processes: Processes) -> None:
        """Keep the items of this process from here on; the other processes keep theirs."""
        assert isinstance(self.item_embedding, nn.Embedding)
        self.item_embedding = SplitEmbedding(self.item_embedding, processes)

    def inference_noise(self, history: History, draw: int = 0) -> Noise:
        """Random numbers that depend on the seed, each history, the step and `draw` alone."""
        return self.evaluation_noise.source(self.evaluation_noise.history_keys(history.items), draw)

    # Training.

    def calculate_loss(self, interaction: Any, noise: Noise | None = None) -> Tensor:
        """Training loss, a scalar.

        Parameters
        ----------
        interaction : recbole Interaction
        noise : Noise, optional
            Gives every random number, the timesteps too (as 'timestep'); by default torch's global generator does.
        """
        noise = noise or self.training_noise()
        whole = self.history(interaction)
        batch = self.batch_of(whole, noise)
        targets = self.targets(whole, interaction)
        timesteps, weights = self.step_sampler.sample(tuple(targets.shape), noise)
        target, timestep, weight = map(batch.own, (targets, timesteps, weights))
        interaction, history, noise = batch.own(interaction), batch.own_history(), batch.own_noise()
        x_0 = self.x_start(target, noise)
        noise_used = self.process.noise_like(x_0, noise)
        condition = self.encode(history, noise)
        end = self.end_point(condition, history) if self.process.has_end else None
        x_t = self.process.sample(x_0, timestep, noise_used, end)
        condition = self._dropped(condition, history, noise)
        output = self.denoise(self.seen(x_t), timestep, condition, noise)
        self.check_output(output, x_0)
        x0_hat = self.to_x_0(output, x_t, timestep)
        step = TrainingStep(
            interaction,
            history,
            target,
            timestep,
            weight,
            x_0,
            x_t,
            noise_used,
            condition,
            output,
            x0_hat,
            noise,
            batch,
        )
        losses = self.all_losses(step)
        if not isinstance(losses, Losses):
            raise ModelError(f"{type(self).__name__}: losses must return Losses(...), got {type(losses).__name__}")
        if self.step_sampler.learns:
            learns_from = losses.rows if losses.learns_from is None else losses.learns_from
            self.step_sampler.update(timesteps, batch.every(learns_from.detach().expand(timestep.shape)), whole.mask)
        loss = batch.loss(weight * losses.rows)
        return loss if losses.unweighted is None else loss + batch.loss(losses.unweighted)

    def _dropped(self, condition: Any, history: History, noise: Noise) -> Any:
        """The condition, in which each row says nothing with probability `guidance_drop`."""
        if not self.guidance_drop:
            return condition
        kept = noise.uniform("guidance_drop", (len(history.length), 1))[:, 0] > self.guidance_drop
        return self._or_nothing(kept, condition)

    def _or_nothing(self, kept: Tensor, condition: Any) -> Any:
        """Row by row the condition where `kept`, else `unconditional`."""
        try:
            return choose_rows(kept, condition, self.unconditional(condition))
        except (ValueError, TypeError, RuntimeError) as error:
            must = "a condition of the form that encode gives, or one row of it"
            raise ModelError(f"{type(self).__name__}: unconditional must return {must} ({error})") from error

    def check_output(self, output: Any, x_0: Tensor) -> None:
        """Refuse what `denoise` must not give for x_0 [B, ...].

        Raises
        ------
        ModelError
        """

    # Inference.

    def sampler(self, denoise: Denoise, x: Tensor, noise: Noise, end: Tensor | None) -> Iterator[ReverseStep]:
        """The reverse process over `self.timesteps`; by default the process's own steps."""
        return ancestral(denoise, x, self.process, self.timesteps, noise, end)

    def sample(self, history: History, noise: Noise) -> Chain:
        """The reverse process, step by step.

        With `diffusion: False` it is a single step, from a state that says nothing.
        """
        start, steps = self._reverse(history, noise)
        return Chain(start, list(steps))

    def _reverse(self, history: History, noise: Noise) -> tuple[Tensor, Iterator[ReverseStep]]:
        condition = self.encode(history, noise)
        shape = self.state_shape(history)
        end = self.end_point(condition, history) if self.process.has_end else None
        if end is not None and end.dim() > len(shape):
            # Training restores every place, inference the newest alone.
            end = self.readout(end, history)
        network: Network = self._network(condition)
        if self.guidance_scale:
            network = guided(network, self._network(self._nothing(condition)), self.guidance_scale)

        def denoise(x_t: Tensor, timestep: float, noise: Noise) -> Any:
            vectors = x_t.is_floating_point()
            dtype = torch.int64 if isinstance(timestep, int) else self.item_embedding.weight.dtype
            shape = x_t.shape[:-1] if vectors else x_t.shape
            # One number seen from every row: a model may encode the step once (`layers.shared_step`).
            timesteps = torch.full((), timestep, device=x_t.device, dtype=dtype).expand(shape)
            return self.to_x_0(network(self.seen(x_t), timesteps, noise), x_t, timesteps)

        first = self.timesteps[0]
        start = self.process.start(shape, noise.at(first if isinstance(first, int) else 0), end)
        weight = self.item_embedding.weight
        start = start.to(weight) if start.is_floating_point() else start.to(weight.device)
        return start, self.sampler(denoise, start, noise, end)

    def sample_x_0(self, history: History, noise: Noise) -> Tensor:
        """The end of the reverse process; a model that has a shorter way to it says so here."""
        x, steps = self._reverse(history, noise)
        for step in steps:
            x = step.x
        return x

    def _network(self, condition: Any) -> Network:
        return lambda x_t, timestep, noise: self.denoise(x_t, timestep, condition, noise)

    def _nothing(self, condition: Any) -> Any:
        """`unconditional`, a row for each row of the condition."""
        first = condition if isinstance(condition, Tensor) else next(part for part in condition if part is not None)
        nobody = torch.zeros(len(first), dtype=torch.bool, device=first.device)
        return self._or_nothing(nobody, condition)

    def restored(self, history: History, noise: Noise | None = None) -> Tensor:
        """Restored x_0 as `readout` reads it, [S, B, ...]: one from `noise`, or `inference_seeds` repeatable ones."""
        seeds = range(self.inference_seeds)
        sources = [noise] if noise else [self.inference_noise(history, draw) for draw in seeds]
        return torch.stack([self.readout(self.sample_x_0(history, source), history) for source in sources])

    # Scores.

    def output_embeddings(self) -> tuple[Tensor, Tensor | None]:
        """Weight [V, d] and bias [V] against which a prediction is scored: the item embeddings, and no bias."""
        return self.item_embedding.weight, None

    def logits(self, x: Tensor, items: Tensor | None = None) -> Tensor:
        """Scores [..., V] of all items by x [..., d], or those [B] of `items` [B] by x [B, d], by `similarity`.

        Where the items are split, those of all items are those of this process's alone.
        """
        if items is not None and self.own_items is not None:
            weight, bias = item_vectors(self.item_embedding(items), None, self.similarity, self.similarity_temperature)
            scores = (item_queries(x, self.similarity) * weight).sum(dim=-1)
            return scores if bias is None else scores + bias
        query, weight, bias = self._scored(x)
        if items is None:
            return F.linear(query, weight, bias)
        return scores_of(query, weight, bias, items)

    def _scored(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """What stands on either side of the dot product that a similarity is."""
        weight, bias = item_vectors(*self.output_embeddings(), self.similarity, self.similarity_temperature)
        return item_queries(x, self.similarity), weight, bias

    def score(self, x_0: Tensor) -> Tensor:
        """Scores [B, V] by restored x_0 [S, B, d] of S draws: those of their mean."""
        return self.logits(x_0.mean(dim=0))

    def log_probabilities(self, scores: Tensor) -> Tensor:
        """Log of the softmax over all candidates, of scores [B, V] as `logits` gives them, which are changed."""
        own, first = self.own_items, self.first_candidate
        scores[:, : first if own is None else own.first_candidate(first)] = -torch.inf
        return scores.log_softmax(dim=-1) if own is None else scores - own.log_sum(scores)[:, None]

    def ranking_loss(self, x: Tensor, target: Tensor, interaction: Any) -> Tensor:
        """Loss [...] of scoring the items `target` [...] by x [..., d].

        The cross-entropy over all items, or with `loss_type: BPR` against the negative item that RecBole drew.
        """
        if self.loss_type == "BPR":
            negative = interaction[self.NEG_ITEM_ID]
            return -F.logsigmoid(self.logits(x, target) - self.logits(x, negative))
        query, weight, bias = self._scored(x)
        cross_entropy = catalogue_cross_entropy if self.own_items is None else self.own_items.cross_entropy
        if target.dim() == 1:
            return cross_entropy(query, weight, bias, target, self.first_candidate)
        return place_cross_entropy(query, weight, bias, target, self.first_candidate, cross_entropy)

    def full_sort_predict(self, interaction: Any, noise: Noise | None = None) -> Tensor:
        """Scores [B, V] of all items: iterative denoising, then rounding.

        Where the items are split, the processes denoise rows of their own, and each scores all rows by its items.

        Parameters
        ----------
        interaction : recbole Interaction
        noise : Noise, optional
            Gives every random number; by default it is a function of seed, history, step and draw.
        """
        if self.own_items is None:
            return self.score(self.restored(self.history(interaction), noise))
        processes = self.own_items.processes
        rows, counted = rows_of(len(interaction), processes.rank, processes.number)
        x_0 = self.restored(self.history(interaction[rows]), noise)[:, :counted]
        return self.score(self.own_items.every_row(x_0.transpose(0, 1))[0].transpose(0, 1))

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
