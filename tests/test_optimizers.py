import subprocess
import sys

import pytest
import torch
from torch import nn

from skvade._optimizers import Adam, Momentum

RATES = (0.1, 0.01)
CAP = 0.5


def parameters_of(seed, dtype=torch.float64):
    """Two groups of parameters, the same for one seed."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [[(3, 2), (3,)], [(), (4,)]]
    return [
        [nn.Parameter(torch.randn(s, generator=generator, dtype=dtype)) for s in group]
        for group in shapes
    ]


def loss_of(groups, step):
    """A sum of quartics that changes with every step, as batches do."""
    return sum((p - 0.1 * step).pow(4).sum() for group in groups for p in group)


def assert_alike(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(list(a), list(b), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("fused", [True, False])
def test_adam_steps_as_the_one_of_torch(fused):
    ours, theirs = parameters_of(0), parameters_of(0)
    optimizer = Adam(zip(RATES, ours, strict=True), fused)
    groups = zip(theirs, RATES, strict=True)
    expected = torch.optim.Adam([{"params": p, "lr": r} for p, r in groups])
    for step in range(20):
        optimizer.descend(loss_of(ours, step))
        expected.zero_grad()
        loss_of(theirs, step).backward()
        expected.step()
    assert_alike(ours, theirs)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("size", [1.0, 1e-4], ids=["capped", "below the cap"])
def test_momentum_steps_as_the_one_of_torch(fused, size):
    (ours, _), (theirs, _) = parameters_of(0), parameters_of(0)
    optimizer = Momentum(ours, 0.1, momentum=0.9, most_norm=CAP, fused=fused)
    expected = torch.optim.SGD(theirs, 0.1, 0.9)
    for step in range(20):
        optimizer.descend(size * loss_of([ours], step))
        expected.zero_grad()
        (size * loss_of([theirs], step)).backward()
        norm = nn.utils.clip_grad_norm_(theirs, CAP)
        assert (norm > CAP) == (size == 1.0)
        expected.step()
    # torch adds 1e-6 to the norm that it divides by.
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fused", [True, False])
def test_no_gradient_is_left_on_the_parameters(fused):
    groups = parameters_of(0)
    Adam(zip(RATES, groups, strict=True), fused).descend(loss_of(groups, 0))
    Momentum(groups[0], 0.1, momentum=0.9, most_norm=CAP, fused=fused).descend(
        loss_of(groups[:1], 0)
    )
    assert all(p.grad is None for group in groups for p in group)


def optimizers(parameters, fused):
    yield Adam([(0.1, parameters)], fused)
    yield Momentum(parameters, 0.1, momentum=0.9, most_norm=CAP, fused=fused)


@pytest.mark.parametrize("which", [0, 1], ids=["adam", "momentum"])
def test_gradients_in_another_order_of_memory(which):
    """As those of a convolution of images in the order of their channels."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4, 3, 3, 3, generator=generator)
    images = torch.randn(2, 3, 8, 8, generator=generator)
    wanted = torch.randn(2, 4, 6, 6, generator=generator)

    def steps(images, fused):
        weight = nn.Parameter(start.clone())
        optimizer = list(optimizers([weight], fused))[which]
        for _ in range(3):
            optimizer.descend((torch.conv2d(images, weight) - wanted).square().sum())
        return weight.detach()

    last = images.to(memory_format=torch.channels_last)
    expected = steps(images, fused=False)
    torch.testing.assert_close(steps(last, fused=True), expected)


@pytest.mark.parametrize("fused", [True, False])
def test_what_is_frozen_or_not_called_stays(fused):
    called, other = parameters_of(0)[0]
    frozen = nn.Parameter(torch.ones(2, dtype=torch.float64), requires_grad=False)
    before = other.detach().clone()
    for optimizer in optimizers([called, other, frozen], fused):
        start = called.detach().clone()
        optimizer.descend((called * frozen).square().sum())
        assert not torch.equal(called, start)
    assert torch.equal(other, before)
    assert (frozen == 1).all()


def averages_of(optimizer):
    if isinstance(optimizer, Momentum):
        return optimizer.velocities
    return [x for _, kept in optimizer.memory() for x in (kept["mean"], kept["square"])]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("which", [0, 1], ids=["adam", "momentum"])
def test_nothing_is_left_to_decay_into_denormal_numbers(which, fused, dtype):
    """A CPU is many times slower with these, and an average of 0.9 never leaves them.

    The steps are those of averages that decay on and on.
    """
    decays = 900 if dtype == torch.float32 else 7000  # 0.9^900 is below 1e-38
    parameter, theirs = (nn.Parameter(torch.ones(2, dtype=dtype)) for _ in range(2))
    optimizer = list(optimizers([parameter], fused))[which]
    kinds = torch.optim.Adam([theirs], 0.1), torch.optim.SGD([theirs], 0.1, 0.9)
    expected = kinds[which]
    theirs.grad = torch.full_like(theirs, 0.1)
    for _ in range(decays):
        optimizer.step({parameter: theirs.grad})
        expected.step()
        theirs.grad = torch.zeros_like(theirs)
    least = torch.finfo(dtype).make_estimator
    for average in averages_of(optimizer):
        assert ((average == 0) | (average.abs() >= least)).all()
    assert any((average == 0).all() for average in averages_of(optimizer))
    torch.testing.assert_close(parameter, theirs, rtol=1e-6, atol=0)


def test_a_nan_is_not_swept_away():
    parameter = nn.Parameter(torch.zeros(2))
    for optimizer in optimizers([parameter], True):
        optimizer.step({parameter: torch.tensor([torch.nan, 1.0])})
        assert all(average[0].isnan() for average in averages_of(optimizer))


def test_a_fit_does_not_import_the_compiler_of_torch():
    code = (
        "import sys, numpy; from skvade import VaDEClusterer\n"
        "rows = numpy.random.default_rng(0).random((20, 3))\n"
        "VaDEClusterer(2, max_iter=1, tol=0).fit(rows)\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    assert subprocess.run(command, check=False).returncode == 0
