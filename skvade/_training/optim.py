"""Adam and SGD with the interface of `torch.optim`, by torch's functional optimizers.

The first optimizer class of `torch.optim` that a process builds imports torch's
compiler, 1.4 s, which is longer than a small fit (see the performance page of the
documentation).

The running averages of gradients that have become zero, as those of a unit that is not
active on any sample, would turn into denormal numbers, with which a CPU takes twenty
times as long for a step. Both optimizers set them to zero before.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

__all__ = ["SGD", "Adam", "Optimizer", "Parameters"]

FLUSH_INTERVAL = 64  # steps, in which an average of momentum 0.9 falls to a thousandth
FLUSH_THRESHOLD = 1e6  # times the smallest normal number

Parameters = Sequence[nn.Parameter]


def flush_denormals(averages: Iterable[Tensor | None], n_steps: int) -> None:
    """Every `FLUSH_INTERVAL` steps zero, in place, what is about to become denormal."""
    if n_steps % FLUSH_INTERVAL:
        return
    for average in averages:
        if average is not None:
            threshold = FLUSH_THRESHOLD * torch.finfo(average.dtype).tiny
            torch.hardshrink(average, threshold, out=average)


class Optimizer(ABC):
    """Parameter groups and their state, in the layout of `torch.optim.Optimizer`.

    Parameters
    ----------
    groups : iterable of (float, sequence of Parameter)
        Learning rate and parameters of each group. Parameters without `requires_grad`
        are left out.
    fused : bool
        Whether the device has fused steps.
    schedule : callable, default=None
        From the number of steps taken to a factor of all learning rates; None for 1.

    Attributes
    ----------
    param_groups : list of dict
        Each with "params" and "lr", which may be changed between steps.
    state : dict of Parameter to dict of str to Tensor
        What is remembered of each parameter; empty before the first step.
    """

    def __init__(
        self,
        groups: Iterable[tuple[float, Parameters]],
        fused: bool,
        schedule: Callable[[int], float] | None = None,
    ) -> None:
        self.param_groups: list[dict[str, Any]] = []
        for lr, parameters in groups:
            trained = [p for p in parameters if p.requires_grad]
            self.param_groups.append({"params": trained, "lr": lr})
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}
        self.fused, self.schedule = fused, schedule
        self.n_steps = 0

    def zero_grad(self) -> None:
        """Drop the gradients of all parameters."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def gradients(self) -> list[Tensor]:
        """List the gradients of the parameters that have one."""
        return [p.grad for p in self._parameters() if p.grad is not None]

    def step(self) -> None:
        """Take a step along the gradients; parameters without one stay as they are."""
        factor = 1.0 if self.schedule is None else self.schedule(self.n_steps)
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                grads = [p.grad for p in parameters]
                self._step(parameters, grads, factor * group["lr"])
        self.n_steps += 1

    def state_dict(self) -> dict[str, Any]:
        """Give what changes from step to step; parameters are numbered."""
        return {
            "n_steps": self.n_steps,
            "lr": [group["lr"] for group in self.param_groups],
            "state": {
                str(number): self.state[parameter]
                for number, parameter in enumerate(self._parameters())
                if parameter in self.state
            },
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what an optimizer of the same parameters gave, as arrays."""
        self.n_steps = state_dict["n_steps"]
        for group, lr in zip(self.param_groups, state_dict["lr"], strict=True):
            group["lr"] = lr
        parameters = self._parameters()
        for number, arrays in state_dict["state"].items():
            state = self.state_of(parameters[int(number)])
            for key, array in arrays.items():
                state[key].copy_(torch.tensor(array))

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.param_groups for p in group["params"]]

    @abstractmethod
    def state_of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Give the state of a parameter; it is zero before the first step."""

    @abstractmethod
    def _step(self, parameters: Parameters, grads: list[Tensor], lr: float) -> None:
        """Take a step of a group along the gradients, at a learning rate."""


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015), its state as in `torch.optim.Adam`.

    Parameters
    ----------
    groups, fused, schedule
        See `Optimizer`.
    weight_decay : float, default=0.0
        Decoupled weight decay (Loshchilov and Hutter, 2019): a step takes this times
        the learning rate from the parameters in `decayed`.
    decayed : iterable of Parameter, default=()
        The parameters that decay.
    """

    def __init__(
        self,
        groups: Iterable[tuple[float, Parameters]],
        fused: bool,
        schedule: Callable[[int], float] | None = None,
        *,
        weight_decay: float = 0.0,
        decayed: Iterable[nn.Parameter] = (),
    ) -> None:
        super().__init__(groups, fused, schedule)
        self.weight_decay, self.decayed = weight_decay, set(decayed)

    @torch.no_grad()
    def _step(self, parameters: Parameters, grads: list[Tensor], lr: float) -> None:
        if self.weight_decay:
            for parameter in parameters:
                if parameter in self.decayed:
                    parameter.mul_(1 - lr * self.weight_decay)
        states = [self.state_of(p) for p in parameters]
        exp_avgs = [state["exp_avg"] for state in states]
        exp_avg_sqs = [state["exp_avg_sq"] for state in states]
        adam(
            [*parameters],
            grads,
            exp_avgs,
            exp_avg_sqs,
            [],  # of the variant amsgrad
            [state["step"] for state in states],
            fused=self.fused,
            lr=lr,
            beta1=0.9,
            beta2=0.999,
            eps=1e-8,
            weight_decay=0.0,
            amsgrad=False,
            maximize=False,
        )
        flush_denormals([*exp_avgs, *exp_avg_sqs], self.n_steps)

    def state_of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        if parameter not in self.state:
            # A fused step counts on the device, the others in Python.
            device = parameter.device if self.fused else "cpu"
            self.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=device),
                "exp_avg": torch.zeros_like(parameter.detach()),
                "exp_avg_sq": torch.zeros_like(parameter.detach()),
            }
        return self.state[parameter]


class SGD(Optimizer):
    """Stochastic gradient descent with momentum and a cap on the gradient's norm.

    Parameters
    ----------
    groups, fused
        See `Optimizer`. The norm is that of each group.
    momentum : float
        Factor of the momentum buffer.
    max_norm : float
        Gradients of a larger norm are scaled to it.
    """

    def __init__(
        self,
        groups: Iterable[tuple[float, Parameters]],
        fused: bool,
        *,
        momentum: float,
        max_norm: float,
    ) -> None:
        super().__init__(groups, fused)
        self.momentum, self.max_norm = momentum, max_norm

    @torch.no_grad()
    def _step(self, parameters: Parameters, grads: list[Tensor], lr: float) -> None:
        norms = [torch.linalg.vector_norm(grad) for grad in grads]
        norm = torch.linalg.vector_norm(torch.stack(norms))
        excess = norm.clamp_min(self.max_norm) / self.max_norm
        grad_scale = None
        if self.fused:
            grad_scale = excess.float()  # the fused step divides by it
        else:
            grads = [grad / excess for grad in grads]
        buffers = [self.state.get(p, {}).get("momentum_buffer") for p in parameters]
        sgd(
            [*parameters],
            grads,
            buffers,
            fused=self.fused,
            grad_scale=grad_scale,
            lr=lr,
            momentum=self.momentum,
            dampening=0.0,
            weight_decay=0.0,
            nesterov=False,
            maximize=False,
        )
        for parameter, buffer in zip(parameters, buffers, strict=True):
            if buffer is not None:
                self.state[parameter] = {"momentum_buffer": buffer}
        flush_denormals(buffers, self.n_steps)

    def state_of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        if parameter not in self.state:
            buffer = torch.zeros_like(parameter.detach())
            self.state[parameter] = {"momentum_buffer": buffer}
        return self.state[parameter]
