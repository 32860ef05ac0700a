"""Adam and SGD against those of `torch.optim`, whose interface they have."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from skvade._training.optim import FLUSH_INTERVAL, SGD, Adam

LEARNING_RATES = (0.1, 0.01)
MOMENTUM = 0.9
MAX_NORM = 0.5
FUSED = pytest.mark.parametrize("fused", [True, False])


def make_adam(parameters, fused):
    return Adam([(0.1, parameters)], fused)


def make_sgd(parameters, fused):
    groups = [(0.1, parameters)]
    return SGD(groups, fused, momentum=MOMENTUM, max_norm=MAX_NORM)


def make_torch_adam(parameters):
    return torch.optim.Adam(parameters, lr=0.1)


def make_torch_sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=MOMENTUM)


BOTH = pytest.mark.parametrize("make", [make_adam, make_sgd], ids=["adam", "sgd"])
BOTH_AND_TORCHS = pytest.mark.parametrize(
    "make, make_torchs",
    [(make_adam, make_torch_adam), (make_sgd, make_torch_sgd)],
    ids=["adam", "sgd"],
)


def make_groups(dtype=torch.float64):
    """Make two groups of parameters, always the same."""
    generator = torch.Generator().manual_seed(0)
    shapes = [[(3, 2), (3,)], [(), (4,)]]
    return [
        [nn.Parameter(torch.randn(s, generator=generator, dtype=dtype)) for s in group]
        for group in shapes
    ]


def make_loss(groups, step):
    """Sum quartics that change with every step, as batches do."""
    return sum((p - 0.1 * step).pow(4).sum() for group in groups for p in group)


def take_step(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def assert_same_parameters(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close([*a], [*b], rtol=1e-12, atol=1e-12)


# --- Against torch.optim ------------------------------------------------------------


@FUSED
def test_adam_steps_as_that_of_torch(fused):
    ours, torchs = make_groups(), make_groups()
    optimizer = Adam(zip(LEARNING_RATES, ours, strict=True), fused)
    groups = zip(torchs, LEARNING_RATES, strict=True)
    expected = torch.optim.Adam([{"params": p, "lr": lr} for p, lr in groups])
    for step in range(20):
        take_step(optimizer, make_loss(ours, step))
        take_step(expected, make_loss(torchs, step))
    assert_same_parameters(ours, torchs)


@FUSED
@pytest.mark.parametrize("size", [1.0, 1e-4], ids=["clipped", "below the limit"])
def test_sgd_steps_as_that_of_torch_with_clipped_gradients(fused, size):
    (ours, _), (torchs, _) = make_groups(), make_groups()
    optimizer, expected = make_sgd(ours, fused), make_torch_sgd(torchs)
    for step in range(20):
        take_step(optimizer, size * make_loss([ours], step))
        expected.zero_grad()
        (size * make_loss([torchs], step)).backward()
        norm = nn.utils.clip_grad_norm_(torchs, MAX_NORM)
        assert (norm > MAX_NORM) == (size == 1.0)
        expected.step()
    # torch adds 1e-6 to the norm that it divides by.
    for a, b in zip(ours, torchs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@FUSED
@BOTH_AND_TORCHS
def test_a_changed_learning_rate_counts_from_the_next_step(make, make_torchs, fused):
    (ours, _), (torchs, _) = make_groups(), make_groups()
    optimizer, expected = make(ours, fused), make_torchs(torchs)
    for step in range(10):
        for o in (optimizer, expected):
            (group,) = o.param_groups
            group["lr"] = 0.1 / (1 + step)
        take_step(optimizer, 1e-4 * make_loss([ours], step))
        take_step(expected, 1e-4 * make_loss([torchs], step))
    assert_same_parameters([ours], [torchs])


@BOTH_AND_TORCHS
def test_groups_and_state_are_laid_out_as_in_torch(make, make_torchs):
    (ours, _), (torchs, _) = make_groups(), make_groups()
    optimizer, expected = make(ours, True), make_torchs(torchs)
    assert not optimizer.state
    take_step(optimizer, 1e-4 * make_loss([ours], 0))
    take_step(expected, 1e-4 * make_loss([torchs], 0))
    for group, torch_group in zip(
        optimizer.param_groups, expected.param_groups, strict=True
    ):
        assert [*map(id, group["params"])] == [*map(id, ours)]
        assert group["lr"] == torch_group["lr"]
        assert group.keys() <= torch_group.keys()
    assert optimizer.state.keys() == set(ours)
    for parameter, torch_parameter in zip(ours, torchs, strict=True):
        state, torch_state = optimizer.state[parameter], expected.state[torch_parameter]
        assert state.keys() == torch_state.keys()
        for name, values in state.items():
            assert values.shape == torch_state[name].shape, name
            assert values.dtype == torch_state[name].dtype, name
            torch.testing.assert_close(values, torch_state[name])


@FUSED
def test_a_state_is_zero_before_the_first_step(fused):
    parameter = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = make_adam([parameter], fused)
    state = optimizer.state_of(parameter)
    assert not any(values.any() for values in state.values())
    assert optimizer.state_of(parameter) is state


@FUSED
def test_adam_goes_on_from_the_state_of_another(fused):
    (parameters, _), (copies, _) = make_groups(), make_groups()
    optimizer = make_adam(parameters, fused)
    for step in range(10):
        if step == 5:
            resumed = make_adam(copies, fused)
            for parameter, copied in zip(parameters, copies, strict=True):
                copied.data.copy_(parameter.data)
                state = resumed.state_of(copied)
                for name, values in optimizer.state[parameter].items():
                    state[name].copy_(values)
        take_step(optimizer, make_loss([parameters], step))
        if step >= 5:
            take_step(resumed, make_loss([copies], step))
    assert_same_parameters([copies], [parameters])


@FUSED
@BOTH
def test_a_state_dict_is_all_that_another_optimizer_needs(make, fused):
    """Learning rates and the number of steps, on which the schedule depends, too."""
    (parameters, _), (copies, _) = make_groups(), make_groups()
    optimizer, resumed = make(parameters, fused), make(copies, fused)
    for each in (optimizer, resumed):
        each.schedule = lambda step: 1 / (1 + step)
    (group,) = optimizer.param_groups
    group["lr"] = 0.2
    for step in range(5):
        take_step(optimizer, make_loss([parameters], step))
    with torch.no_grad():
        for parameter, copied in zip(parameters, copies, strict=True):
            copied.copy_(parameter)
    state_dict = deepcopy(optimizer.state_dict())
    for state in state_dict["state"].values():
        state.update({name: values.numpy() for name, values in state.items()})
    resumed.load_state_dict(state_dict)
    for step in range(5, 10):
        take_step(optimizer, make_loss([parameters], step))
        take_step(resumed, make_loss([copies], step))
    for copied, parameter in zip(copies, parameters, strict=True):
        assert torch.equal(copied, parameter)


# --- Which parameters ---------------------------------------------------------------


@FUSED
@BOTH
def test_zero_grad_drops_the_gradients(make, fused):
    parameters, _ = make_groups()
    optimizer = make(parameters, fused)
    take_step(optimizer, make_loss([parameters], 0))
    assert all(p.grad is not None for p in parameters)
    optimizer.zero_grad()
    assert all(p.grad is None for p in parameters)


@FUSED
@BOTH
def test_parameters_without_gradient_stay(make, fused):
    used, unused = make_groups()[0]
    frozen = nn.Parameter(torch.ones(2, dtype=torch.float64), requires_grad=False)
    start, before = used.detach().clone(), unused.detach().clone()
    optimizer = make([used, unused, frozen], fused)
    take_step(optimizer, (used * frozen).square().sum())
    assert not torch.equal(used, start)
    assert torch.equal(unused, before)
    assert (frozen == 1).all()
    assert optimizer.state.keys() == {used}


@FUSED
@BOTH
def test_a_step_without_any_gradient_changes_nothing(make, fused):
    parameters, _ = make_groups()
    before = [p.detach().clone() for p in parameters]
    make(parameters, fused).step()
    assert all(map(torch.equal, parameters, before))


@BOTH
def test_gradients_in_another_memory_format(make):
    """As those of a convolution of images whose channels come last."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4, 3, 3, 3, generator=generator)
    images = torch.randn(2, 3, 8, 8, generator=generator)
    target = torch.randn(2, 4, 6, 6, generator=generator)

    def train(images, fused):
        weight = nn.Parameter(start.clone())
        optimizer = make([weight], fused)
        for _ in range(3):
            output = torch.conv2d(images, weight)
            take_step(optimizer, (output - target).square().sum())
        return weight.detach()

    channels_last = images.to(memory_format=torch.channels_last)
    expected = train(images, fused=False)
    torch.testing.assert_close(train(channels_last, fused=True), expected)


# --- Denormal numbers ---------------------------------------------------------------


def get_averages(optimizer):
    return [
        values
        for state in optimizer.state.values()
        for name, values in state.items()
        if name != "step"
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@FUSED
@BOTH_AND_TORCHS
def test_averages_become_zero_before_they_are_denormal(make, make_torchs, fused, dtype):
    """A CPU is many times slower with denormal numbers.

    The steps are those of averages that decay on and on.
    """
    n_steps = 900 if dtype == torch.float32 else 7000  # 0.9^900 is below 1e-38
    ours, torchs = (nn.Parameter(torch.ones(2, dtype=dtype)) for _ in range(2))
    optimizer, expected = make([ours], fused), make_torchs([torchs])
    smallest = torch.finfo(dtype).tiny
    gradient = torch.full((2,), 0.1, dtype=dtype)
    for step in range(n_steps):
        ours.grad, torchs.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        expected.step()
        gradient = torch.zeros_like(gradient)
        if step % FLUSH_INTERVAL == 0:
            for average in get_averages(optimizer):
                assert ((average == 0) | (average.abs() >= smallest)).all()
    for average in get_averages(optimizer):
        assert ((average == 0) | (average.abs() >= smallest)).all()
    assert any((average == 0).all() for average in get_averages(optimizer))
    torch.testing.assert_close(ours, torchs, rtol=1e-6, atol=0)


@BOTH
def test_nan_in_an_average_is_kept(make):
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = make([parameter], True)
    for _ in range(FLUSH_INTERVAL + 1):
        parameter.grad = torch.tensor([torch.nan, 1.0])
        optimizer.step()
    assert all(average[0].isnan() for average in get_averages(optimizer))


# --- Schedule and weight decay ------------------------------------------------------


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_with_schedule_and_decay_is_adamw(weight_decay):
    def factor(step):
        return 1 / (1 + step)

    ours = nn.Parameter(torch.linspace(-1, 1, 7, dtype=torch.float64))
    theirs = nn.Parameter(ours.detach().clone())
    optimizer = Adam(
        [(0.1, [ours])], False, factor, weight_decay=weight_decay, decayed=[ours]
    )
    expected = torch.optim.AdamW([theirs], lr=0.1, weight_decay=weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(expected, factor)
    for _ in range(5):
        for parameter, stepper in ((ours, optimizer), (theirs, expected)):
            stepper.zero_grad()
            (parameter**4).sum().backward()
            stepper.step()
        scheduler.step()
    torch.testing.assert_close(ours, theirs)


def test_only_the_parameters_that_are_named_decay():
    decaying, other = (nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = Adam(
        [(0.1, [decaying, other])], False, weight_decay=0.5, decayed=[decaying]
    )
    for parameter in (decaying, other):
        parameter.grad = torch.zeros(2)
    optimizer.step()
    torch.testing.assert_close(decaying.detach(), torch.full((2,), 0.95))
    torch.testing.assert_close(other.detach(), torch.ones(2))
