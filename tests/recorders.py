"""Callbacks that record their calls."""


class Recorder:
    """Record every call, and react as asked when a task begins or ends."""

    def __init__(self, **react):
        self.react = react  # begin, end: functions of task name, number and model
        self.calls = []

    def setup(self, estimator, context):
        self.calls.append("setup")
        self.root = context

    def teardown(self, estimator, context):
        self.calls.append("teardown")

    def on_fit_task_begin(self, estimator, context, *, X, y, metadata):
        self.calls.append(f"+{context.task_name}")
        self.data = X, y, metadata
        self._react("begin", context)

    def on_fit_task_end(self, estimator, context, *, fitted_estimator):
        self.calls.append(f"-{context.task_name}")
        return self._react("end", context, fitted_estimator)

    def _react(self, when, context, fitted=None):
        react = self.react.get(when, lambda *args: None)
        return react(context.task_name, context.task_id, fitted)

    def epochs(self):
        """Count the epochs of each stage."""
        return {
            context.task_name: len(context._children_map)
            for context in self.root
            if context.task_name not in ("fit", "epoch")
        }


class PropagatedRecorder(Recorder):
    max_propagation_depth = None


class Snapshots(Recorder):
    """Keep the model that it gets at the end of every task."""

    def __init__(self):
        self.kept = []
        super().__init__(end=lambda name, _, fitted: self.kept.append((name, fitted)))

    def at_epochs(self):
        """Give the models of the last stage."""
        start = [name for name, _ in self.kept].index("warmup")
        return [fitted for name, fitted in self.kept[start:] if name == "epoch"]
