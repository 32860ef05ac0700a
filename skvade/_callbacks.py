"""The bridge to scikit-learn's callbacks: they watch a fit, task by task."""

from typing import Any, Self

from numpy.typing import ArrayLike
from sklearn.callback import CallbackContext, CallbackSupportMixin

from skvade._fitted import FittedVaDE
from skvade._fitting import forget, snapshot
from skvade._run import Run, Task

__all__ = ["WatchedVaDE", "watch"]

# What scikit-learn puts on an estimator for as long as its fit is watched.
_WHILE_WATCHED = {
    "_callback_fit_ctx",
    "_parent_callback_ctx",
    "_skl_callbacks",
    "_skl_callbacks_to_teardown",
}


class WatchedVaDE(CallbackSupportMixin):
    """An estimator that callbacks watch while it is fitted."""

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if "_callback_fit_ctx" not in state:
            return state
        # A callback may keep the copies that it gets: nobody watches these.
        return {k: v for k, v in state.items() if k not in _WHILE_WATCHED}


class WatchedTask(Task):
    """A task of a fit that the callbacks of an estimator are told of."""

    def __init__(self, context: CallbackContext, told: dict[str, Any]) -> None:
        self.context, self.told = context, told
        context.call_on_fit_task_begin(**told)

    def part(self, name: str, max_parts: int = 0) -> Self:
        context = self.context.subcontext(name, max_subtasks=max_parts)
        return type(self)(context, self.told)

    def end(self) -> bool:
        return self.context.call_on_fit_task_end(**self.told)


def watch(
    estimator: FittedVaDE,
    run: Run,
    context: CallbackContext,
    X: ArrayLike,
    y: object,
    sample_weight: ArrayLike | None,
) -> None:
    """Let the callbacks of an estimator watch a run from its start.

    They get the data as the user gave them, and on demand an estimator that answers as
    the model does at that moment.
    """
    forget(estimator)
    weighted = sample_weight is not None
    told = {
        "estimator": estimator,
        "X": X,
        "y": y,
        "metadata": {"sample_weight": sample_weight} if weighted else None,
        "reconstruction_attributes": lambda: snapshot(estimator, run),
    }
    run.task = WatchedTask(context, told)
