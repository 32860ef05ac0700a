"""scikit-learn's callback protocol: tasks of a fit, and models to look at meanwhile."""

from typing import Any, Self

from numpy.typing import ArrayLike
from sklearn.callback import CallbackContext, CallbackSupportMixin

from skvade._prediction import PredictionMixin
from skvade._state import reset_fitted_attributes, snapshot
from skvade._training.state import FitTask, TrainingState

__all__ = ["CallbackMixin", "attach_callbacks"]

# Attributes that are set on an estimator while callbacks are active.
_ACTIVE_CALLBACK_ATTRIBUTES = {
    "_callback_fit_ctx",
    "_fit_state",
    "_parent_callback_ctx",
    "_skl_callbacks",
    "_skl_callbacks_to_teardown",
}


class CallbackMixin(CallbackSupportMixin):
    """Support callbacks; copies that a callback keeps have none themselves."""

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if "_callback_fit_ctx" not in state:
            return state
        return {k: v for k, v in state.items() if k not in _ACTIVE_CALLBACK_ATTRIBUTES}


class CallbackTask(FitTask):
    """A task of a fit that is reported to the callbacks of the estimator.

    Parameters
    ----------
    context : CallbackContext
        scikit-learn's context of the task.
    hook_kwargs : dict
        Arguments of the hooks: the estimator, the data, and how to get a model.
    """

    def __init__(self, context: CallbackContext, hook_kwargs: dict[str, Any]) -> None:
        self.context, self.hook_kwargs = context, hook_kwargs
        context.call_on_fit_task_begin(**hook_kwargs)

    def subtask(self, name: str, max_subtasks: int = 0) -> Self:
        context = self.context.subcontext(name, max_subtasks=max_subtasks)
        return type(self)(context, self.hook_kwargs)

    def end(self) -> bool:
        return self.context.call_on_fit_task_end(**self.hook_kwargs)


def attach_callbacks(
    estimator: PredictionMixin,
    state: TrainingState,
    context: CallbackContext,
    X: ArrayLike,
    y: object,
    sample_weight: ArrayLike | None,
) -> None:
    """Report a training run to the callbacks of the estimator, from its start.

    They get the data as the user gave them, and on demand an estimator whose
    predictions are those of the module at that moment. Until the end of the fit, the
    estimator has the state of the run as `_fit_state`, for `Checkpoint`.
    """
    reset_fitted_attributes(estimator)
    estimator._fit_state = state
    metadata = None
    if sample_weight is not None:
        metadata = {"sample_weight": sample_weight}
    hook_kwargs = {
        "estimator": estimator,
        "X": X,
        "y": y,
        "metadata": metadata,
        "reconstruction_attributes": lambda: snapshot(estimator, state),
    }
    state.task = CallbackTask(context, hook_kwargs)
