"""The terms of the loss beside their definitions, and the seeds that they are taken over."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bright import bright_segmenter
from cytoseed.core.model import Segmenter
from cytoseed.core.seeds import find_seeds
from cytoseed.learn.loss import TrainingSeeds, batch_losses, dice_loss, draw_seeds, lovasz_hinge, seed_loss
from cytoseed.settings import ModelConfig

INF = float("inf")
shapes = st.tuples(st.integers(1, 4), st.integers(1, 25))
windows = shapes.flatmap(
    lambda shape: st.tuples(
        arrays(np.float32, shape, elements=st.floats(-8, 8, width=32)),
        arrays(np.bool_, shape),
        arrays(np.bool_, shape),
    )
)


def tensors(*values):
    return [torch.from_numpy(value) for value in values]


def lovasz_reference(logits, target, counts):
    """Berman et al. 2018, equations 8 and 9: the Jaccard loss of growing sets of errors, the largest first."""
    losses = []
    for window, wanted, own in zip(logits.astype(np.float64), target, counts, strict=True):
        margins, truth = window[own], wanted[own]
        errors = np.maximum(1 - margins * np.where(truth, 1, -1), 0)
        loss, before, wrong = 0.0, 0.0, np.zeros(len(errors), bool)
        for index in np.argsort(-errors):
            wrong[index] = True
            jaccard = wrong.sum() / (truth | wrong).sum()  # 1 - IoU where exactly these pixels are wrong
            loss += errors[index] * (jaccard - before)
            before = jaccard
        losses.append(loss)
    return np.mean(losses)


def dice_reference(logits, target, counts):
    losses = []
    for window, wanted, own in zip(logits.astype(np.float64), target, counts, strict=True):
        probability, truth = 1 / (1 + np.exp(-window[own])), wanted[own]
        losses.append(1 - (2 * probability[truth].sum() + 1) / (probability.sum() + truth.sum() + 1))
    return np.mean(losses)


@pytest.mark.parametrize(("term", "reference"), [(lovasz_hinge, lovasz_reference), (dice_loss, dice_reference)])
@given(case=windows)
def test_an_instance_term_is_its_definition(term, reference, case):
    result = term(*tensors(*case))
    assert result.shape == ()
    assert result >= -1e-6
    np.testing.assert_allclose(result.item(), reference(*case), atol=1e-4)


@pytest.mark.parametrize("term", [lovasz_hinge, dice_loss])
@given(case=windows, other=st.sampled_from([-INF, INF, -1e30, 0.0, 1e30, 3.0]))
def test_pixels_that_do_not_count_change_nothing(term, case, other):
    logits, target, counts = tensors(*case)
    changed = torch.where(counts, logits, other)
    strange = torch.where(counts, target, ~target)
    gradients = []
    for own, wanted in ((logits, target), (changed, strange)):
        leaf = own.clone().requires_grad_()
        loss = term(leaf, wanted, counts)
        loss.backward()
        gradients.append((loss.detach(), leaf.grad))
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-5)
    assert gradients[1][1].isfinite().all()
    assert (gradients[1][1][~counts] == 0).all()


fields_of_seeds = st.tuples(st.integers(1, 3), st.integers(1, 8), st.integers(1, 8)).flatmap(
    lambda shape: st.tuples(
        arrays(np.float32, shape, elements=st.floats(-2, 3, width=32)),
        arrays(np.int64, shape, elements=st.integers(-1, 3)),
        arrays(np.float32, shape, elements=st.floats(0, 1, width=32)),
    )
)


@given(fields_of_seeds)
def test_the_seed_term_is_the_mean_over_annotated_pixels(case):
    seed_map, labels, distance = case
    known = labels >= 0
    if not known.any():
        expected = (0.0, 0.0)
    else:
        own, logits = seed_map[known].astype(np.float64), 15 * (seed_map[known].astype(np.float64) - 0.5)
        chance = np.logaddexp(0, np.where(labels[known] > 0, -logits, logits))
        expected = (15 * np.abs(own - distance[known]).mean(), chance.mean())
    for pretrain in (False, True):
        result = seed_loss(*tensors(*case), pretrain)
        np.testing.assert_allclose(result.item(), expected[pretrain], rtol=1e-4, atol=1e-5)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scattered_seeds() -> tuple[torch.Tensor, torch.Tensor]:
    """Seed maps of three images with 36, 36 and 2 maxima, and labels that cover the upper half of each."""
    seed_map = torch.zeros(3, 60, 60)
    seed_map[:2, 5::10, 5::10] = torch.rand(2, 6, 6, generator=generator(5)) * 0.4 + 0.6
    seed_map[2, 5, 5] = seed_map[2, 5, 25] = 0.9
    labels = torch.zeros(3, 60, 60, dtype=torch.int64)
    labels[:, :30] = 7
    labels[:, 40:] = -1
    return seed_map, labels


@given(st.integers(1, 40), st.integers(0, 1000))
def test_seeds_are_drawn_from_those_on_objects(most, seed):
    model = bright_segmenter()
    seed_map, labels = scattered_seeds()
    drawn = draw_seeds(seed_map, labels, model, TrainingSeeds(most, 16, generator(seed)))
    rows = [tuple(row) for row in drawn.tolist()]
    allowed = {tuple(s) for s in find_seeds(seed_map, 4, 0.5).tolist() if labels[tuple(s)] > 0}
    assert len(set(rows)) == len(rows)
    assert set(rows) <= allowed
    assert drawn[:, 0].bincount(minlength=3).tolist() == [min(most, 18), min(most, 18), min(most, 2)]
    assert (drawn[:, 0].diff() >= 0).all()


def test_every_seed_is_drawn_now_and_then():
    model = bright_segmenter()
    seed_map, labels = scattered_seeds()
    training = TrainingSeeds(3, 16, generator())
    drawn = torch.cat([draw_seeds(seed_map, labels, model, training) for _ in range(60)])
    assert len(drawn.unique(dim=0)) == 18 + 18 + 2


def two_targets(targets: tuple[str, ...] = ("nuclei", "cells")) -> tuple[Segmenter, torch.Tensor, torch.Tensor]:
    """A segmenter, labels with discs in every target, those of the second larger, and their distances."""
    torch.manual_seed(0)
    model = Segmenter(ModelConfig("small", targets=targets, min_size_px=1))
    rows, columns = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
    away = torch.stack([((rows - 14) ** 2 + (columns - 14) ** 2), ((rows - 34) ** 2 + (columns - 33) ** 2)]).sqrt()
    labels = torch.zeros(2, len(targets), 48, 48, dtype=torch.int64)
    distance = torch.zeros(2, len(targets), 48, 48)
    for target in range(len(targets)):
        radius = 5.0 + 3 * target
        for number in (0, 1):
            disc = away[number] < radius
            labels[:, target][:, disc] = number + 1
            distance[:, target][:, disc] = (1 - away[number][disc] / radius).clamp(min=0.05)
    return model, labels, distance


@pytest.mark.parametrize("pretrain", [False, True])
def test_the_loss_of_two_targets_is_the_mean_of_both(pretrain):
    model, labels, distance = two_targets()
    fields = model.fields(torch.rand(2, 3, 48, 48)).detach()
    fields[:, :, -1] = distance  # so that there are seeds
    both = batch_losses(model, fields, labels, distance, TrainingSeeds(50, 24, generator()), pretrain)
    singles = []
    for target in (0, 1):
        alone, _, _ = two_targets(("nuclei",))
        alone.classifiers[0].load_state_dict(model.classifiers[target].state_dict())
        part = slice(target, target + 1)
        training = TrainingSeeds(50, 24, generator())
        singles.append(batch_losses(alone, fields[:, part], labels[:, part], distance[:, part], training, pretrain))
    for name in ("seed", "instance"):
        mean = (getattr(singles[0], name) + getattr(singles[1], name)) / 2
        torch.testing.assert_close(getattr(both, name), mean)
    assert both.instance > 0


@pytest.mark.parametrize("pretrain", [False, True])
def test_both_terms_reach_every_weight(pretrain):
    model, labels, distance = two_targets()
    with torch.no_grad():
        for target in (1, 2):
            model.network.head.bias[target * model.field_count - 1] = 3.0  # seeds from the start
    fields = model.fields(torch.rand(2, 3, 48, 48))
    losses = batch_losses(model, fields, labels, distance, TrainingSeeds(50, 24, generator()), pretrain)
    assert losses.instance > 0
    (losses.seed + losses.instance).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("pretrain", [False, True])
def test_a_batch_without_seeds_teaches_the_seed_map_only(pretrain):
    model, labels, distance = two_targets(("nuclei",))
    fields, nothing = model.fields(torch.rand(2, 3, 48, 48)), torch.zeros_like(labels)
    losses = batch_losses(model, fields, nothing, 0 * distance, TrainingSeeds(50, 24, generator()), pretrain)
    assert losses.instance == 0
    (losses.seed + losses.instance).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert all((parameter.grad == 0).all() for parameter in model.classifiers.parameters())


def sure_segmenter() -> Segmenter:
    """Bright pixels are objects: the logit of phi is E itself."""
    model = bright_segmenter()
    with torch.no_grad():
        model.classifiers[0].first.bias.fill_(50.0)
        model.classifiers[0].layers[0].bias.fill_(-50.0)
    return model


def test_the_loss_is_zero_for_the_model_that_is_right():
    model = sure_segmenter()
    _, labels, distance = two_targets(("nuclei",))
    fields = torch.zeros(2, 1, 4, 48, 48)
    fields[:, :, 2] = torch.where(labels > 0, 20.0, -20.0)
    fields[:, :, 3] = distance
    training = TrainingSeeds(50, 16, generator())
    losses = batch_losses(model, fields, labels, distance, training, False)
    assert losses == (0, 0)
    fields[:, :, 2] *= -1
    fields[:, :, 3] += 0.1
    wrong = batch_losses(model, fields, labels, distance, training, False)
    assert wrong.seed.item() == pytest.approx(1.5)
    assert wrong.instance.item() == pytest.approx(21)  # every pixel's error is 1 + 20, and the IoU is 0


def test_unknown_pixels_and_the_image_edge_do_not_count_in_the_instance_term():
    model = sure_segmenter()
    labels = torch.zeros(1, 1, 20, 20, dtype=torch.int64)
    labels[..., :6, :6] = 1  # in the corner: most of the window lies outside the image
    labels[..., 12:, :] = -1
    distance = torch.zeros(1, 1, 20, 20)
    distance[..., 3, 3] = 1.0
    fields = torch.zeros(1, 1, 4, 20, 20)
    fields[:, :, 2] = torch.where(labels == 0, -20.0, 20.0)  # wrong on unknown pixels only
    fields[:, :, 3] = distance
    assert batch_losses(model, fields, labels, distance, TrainingSeeds(50, 32, generator()), False) == (0, 0)
    fields[:, :, 2] *= -1
    assert batch_losses(model, fields, labels, distance, TrainingSeeds(50, 32, generator()), False).instance > 0


@pytest.mark.parametrize("pretrain", [False, True])
def test_a_target_without_a_mask_counts_in_no_term(pretrain):
    model, labels, distance = two_targets()
    fields = model.fields(torch.rand(2, 3, 48, 48)).detach()
    fields[:, :, -1] = distance
    labels[:, 1] = -1
    fields.requires_grad_()
    losses = batch_losses(model, fields, labels, distance, TrainingSeeds(50, 24, generator()), pretrain)
    (losses.seed + losses.instance).backward()
    assert torch.equal(losses.seed, seed_loss(fields[:, 0, -1], labels[:, 0], distance[:, 0], pretrain))
    assert fields.grad is not None
    assert fields.grad[:, 0].abs().sum() > 0
    assert fields.grad[:, 1].abs().sum() == 0
