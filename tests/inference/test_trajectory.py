from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_diffusion.errors import UserError
from recbole_diffusion.inference import Recommender
from recbole_diffusion.inference.trajectory import STEPS, directions, embeddings, plane, plot, principal_axes, trace


def ids(recommender: Recommender, *tokens: str) -> torch.Tensor:
    return torch.from_numpy(recommender.vocabulary.ids(tokens))


@pytest.mark.parametrize("model", ["DiffuRec", "DiffRec"])
@pytest.mark.parametrize("steps", [1, 8, 32])
def test_a_trajectory_ends_where_recommending_does(
    loaded: Callable[[str], Recommender], model: str, steps: int
) -> None:
    recommender = loaded(model)
    traced = trace(recommender.model, ids(recommender, "50", "258"), k=4, steps=steps, seed=3)
    expected = recommender.recommend(["50", "258"], topk=4, inference_steps=steps, seed=3, exclude_seen=False)
    assert recommender.vocabulary.tokens[traced.items[-1]].tolist() == expected.items[0].tolist()
    assert len(traced.x) == len(traced.timestep) == steps + 1
    assert traced.timestep[0] == 31 and traced.timestep[-1] is None


def test_it_begins_with_noise_and_does_not_with_none(diffurec: Recommender) -> None:
    loud = [trace(diffurec.model, ids(diffurec, item)).x[0] for item in ("50", "258", "286", "1")]
    assert 0.5 < np.std(loud) < 1.5 and not np.array_equal(loud[0], loud[1])
    quiet = trace(diffurec.model, ids(diffurec, "50"), temperature=0.0)
    assert not quiet.x[0].any() and quiet.x[-1].any() and len(quiet.x) == STEPS + 1


def test_distances_are_between_directions(diffurec: Recommender) -> None:
    traced = trace(diffurec.model, ids(diffurec, "50"), k=2)
    points = embeddings(diffurec.model).numpy()[traced.items[3, 1]]
    cosine = traced.x[3] @ points / np.linalg.norm(traced.x[3]) / np.linalg.norm(points)
    assert traced.distance[3, 1] == pytest.approx(np.sqrt(2 - 2 * cosine), rel=1e-4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_the_plane_keeps_what_lies_in_a_plane(seed: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    axes = np.linalg.qr(random.standard_normal((6, 2)))[0].T
    points = torch.from_numpy(random.standard_normal((30, 2)) @ axes * scale)
    seen = torch.from_numpy(random.standard_normal((4, 2)) @ axes)
    first, second = plane(points, seen)
    flat, whole = torch.from_numpy(np.concatenate([first, second])), torch.cat([points, seen])
    torch.testing.assert_close(torch.cdist(flat, flat), torch.cdist(whole, whole), rtol=1e-6, atol=1e-6 * max(scale, 1))


def test_principal_axes_are_those_of_the_covariance() -> None:
    points = torch.from_numpy(np.random.default_rng(3).standard_normal((40, 5))) * torch.tensor([3, 1, 2, 0.1, 0.5])
    points = points - points.mean(dim=0)
    found = principal_axes([points])
    values, vectors = np.linalg.eigh(np.cov(points.numpy().T))
    np.testing.assert_allclose(found.share, values[[-1, -2]] / values.sum())
    np.testing.assert_allclose(np.abs((found.axes.numpy() * vectors[:, [-1, -2]]).sum(axis=0)), 1.0)
    assert (found.axes.gather(0, found.axes.abs().argmax(dim=0, keepdim=True)) > 0).all()


def test_directions_have_length_one_but_for_nothing() -> None:
    points = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    torch.testing.assert_close(directions(points), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_the_picture_is_one(diffurec: Recommender) -> None:
    history = ids(diffurec, "50", "258", "286")
    traced = trace(diffurec.model, history, k=3)
    names = diffurec.vocabulary.names().copy()
    # Would be a formula that does not parse.
    names[traced.items[-1][0]] = "$x^$ a name that is longer than there is room for"
    plot("a.png", traced, diffurec.model, history.numpy(), names)
    picture = matplotlib.image.imread("a.png")
    assert picture.shape[:2] == (780, 1690) and picture.std() > 0.01
    plot("folder/b", traced, diffurec.model, history.numpy(), names)
    assert Path("folder/b").read_bytes() == Path("a.png").read_bytes()
    for path, problem in (("folder", "cannot be written"), ("a.xyz", "the picture cannot be written")):
        with pytest.raises(UserError, match=f"^{path}: {problem}"):
            plot(path, traced, diffurec.model, history.numpy(), names)
    assert sorted(path.name for path in Path().rglob("*")) == ["a.png", "b", "folder"]


def test_steps_that_the_model_has_not(diffurec: Recommender) -> None:
    with pytest.raises(UserError, match="inference_steps must be from 1 to 32"):
        trace(diffurec.model, ids(diffurec, "50"), steps=33)


def test_what_is_left_out_is_noted_nowhere(diffurec: Recommender) -> None:
    history, size = ids(diffurec, "50", "258"), diffurec.model.n_items
    left = torch.tensor([3, size - 1])
    hidden = torch.tensor([[item for item in range(1, size) if item not in left]])
    traced = trace(diffurec.model, history, k=4, hidden=hidden)
    assert traced.items.shape == traced.distance.shape == (STEPS + 1, 2) and set(traced.items.flat) == {3, size - 1}
    with pytest.raises(UserError, match="no item is left"):
        trace(diffurec.model, history, hidden=torch.arange(1, size)[None])


@pytest.mark.parametrize("model", ["SASRec"])
def test_models_without_a_reverse_process(loaded: Callable[[str], Recommender], model: str) -> None:
    recommender = loaded(model)
    with pytest.raises(UserError, match="SASRec has no reverse process to explain"):
        trace(recommender.model, ids(recommender, "50"))
