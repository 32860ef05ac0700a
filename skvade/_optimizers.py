"""Steps down a gradient, with nothing around the arithmetic.

The arithmetic is torch's own. What its classes add, hooks and a state per parameter,
takes longer than the arithmetic where networks are small, and the first of them that a
process builds imports torch's compiler, which takes longer than a small fit.

Ours is to sweep up: the averages that an optimizer keeps of gradients that have become
zero, as those of a unit that no row excites any more, would end in denormal numbers and
stay there, and with these a CPU takes twenty times as long for a step.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

__all__ = ["Adam", "Momentum", "differentiate"]

N_STEPS_TO_SWEEP = 64  # an average of momentum 0.9 falls to a thousandth in these
NEXT_TO_NOTHING = 1e6  # times the smallest number that is not denormal

Parameters = Sequence[nn.Parameter]


def _sweep(averages: Iterable[Tensor | None], n_steps: int) -> None:
    """Every so many steps set to zero, in place, what is about to become denormal."""
    if n_steps % N_STEPS_TO_SWEEP:
        return
    for average in averages:
        if average is not None:
            least = NEXT_TO_NOTHING * torch.finfo(average.dtype).tiny
            torch.hardshrink(average, least, out=average)


def differentiate(loss: Tensor, parameters: Parameters) -> dict[Tensor, Tensor]:
    """Gradients, laid out in memory as the parameters are: fused steps rely on it.

    Those of a convolution may not be. They are zero where the loss does not depend on a
    parameter, as on a layer that the user's network does not call.
    """
    gradients = torch.autograd.grad(
        loss, parameters, allow_unused=True, materialize_grads=True
    )
    return {
        p: g if g.stride() == p.stride() else torch.empty_like(p).copy_(g)
        for g, p in zip(gradients, parameters, strict=True)
    }


class Adam:
    """Adam (Kingma and Ba, 2015) on groups of parameters, each at its learning rate."""

    def __init__(self, groups: Iterable[tuple[float, Parameters]], fused: bool) -> None:
        self.groups = [_AdamGroup(rate, group, fused) for rate, group in groups]
        self.parameters = [p for group in self.groups for p in group.parameters]
        self.n_steps = 0

    def descend(self, loss: Tensor) -> None:
        """Take a step down the gradient of the loss."""
        self.step(differentiate(loss, self.parameters))

    def step(self, gradients: Mapping[Tensor, Tensor]) -> None:
        """Take a step down these gradients, by parameter."""
        for group in self.groups:
            group.step([gradients[p] for p in group.parameters])
            _sweep([*group.means, *group.squares], self.n_steps)
        self.n_steps += 1

    def memory(self) -> Iterator[tuple[nn.Parameter, dict[str, Tensor]]]:
        """What is remembered of each parameter, to read or to fill."""
        for group in self.groups:
            kept = zip(
                group.parameters, group.means, group.squares, group.counts, strict=True
            )
            for parameter, mean, square, count in kept:
                yield parameter, {"mean": mean, "square": square, "count": count}


class _AdamGroup:
    def __init__(self, rate: float, parameters: Parameters, fused: bool) -> None:
        self.rate, self.fused = rate, fused
        self.parameters = [p for p in parameters if p.requires_grad]
        self.values = [p.detach() for p in self.parameters]
        self.means = [torch.zeros_like(p) for p in self.values]
        self.squares = [torch.zeros_like(p) for p in self.values]
        # Counted where they are read: fused on the device, else in Python.
        places = [p.device if fused else "cpu" for p in self.values]
        self.counts = [torch.zeros((), device=place) for place in places]

    def step(self, gradients: list[Tensor]) -> None:
        largest_squares: list[Tensor] = []  # of a variant that is not asked for
        adam(
            self.values,
            gradients,
            self.means,
            self.squares,
            largest_squares,
            self.counts,
            fused=self.fused,
            lr=self.rate,
            beta1=0.9,
            beta2=0.999,
            eps=1e-8,
            weight_decay=0.0,
            amsgrad=False,
            maximize=False,
        )


class Momentum:
    """Stochastic gradient descent with momentum, the gradient's norm capped."""

    def __init__(
        self,
        parameters: Parameters,
        rate: float,
        *,
        momentum: float,
        most_norm: float,
        fused: bool,
    ) -> None:
        self.rate, self.momentum, self.most_norm = rate, momentum, most_norm
        self.parameters, self.fused = [p for p in parameters if p.requires_grad], fused
        self.values = [p.detach() for p in self.parameters]
        self.velocities: list[Tensor | None] = [None] * len(self.values)
        self.n_steps = 0

    def descend(self, loss: Tensor) -> None:
        """Take a step down the gradient of the loss."""
        self.step(differentiate(loss, self.parameters))

    def step(self, gradients: Mapping[Tensor, Tensor]) -> None:
        """Take a step down these gradients, by parameter."""
        slopes = [gradients[p] for p in self.parameters]
        norms = [torch.linalg.vector_norm(g) for g in slopes]
        norm = torch.linalg.vector_norm(torch.stack(norms))
        excess = norm.clamp_min(self.most_norm) / self.most_norm
        if not self.fused:
            slopes = [g / excess for g in slopes]
        sgd(
            self.values,
            slopes,
            self.velocities,
            fused=self.fused,
            # Of float32, whatever the gradients are; they are divided by it.
            grad_scale=excess.float() if self.fused else None,
            lr=self.rate,
            momentum=self.momentum,
            dampening=0.0,
            weight_decay=0.0,
            nesterov=False,
            maximize=False,
        )
        _sweep(self.velocities, self.n_steps)
        self.n_steps += 1
