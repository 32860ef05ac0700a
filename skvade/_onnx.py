"""Fitted models as ONNX files, which run where neither torch nor skvade is."""

from collections.abc import Callable
from os import PathLike

import torch
from torch import Tensor, nn

from skvade._inference import log_responsibilities_of
from skvade._networks import VaDE

__all__ = ["METHODS", "export"]

Answer = Callable[[Tensor], Tensor]


def _proba(model: VaDE, responsibilities: str) -> Answer:
    answer = log_responsibilities_of(model, responsibilities)
    return lambda x: answer(x).exp()


def _coordinates(model: VaDE, responsibilities: str) -> Answer:
    return model.encoder.embed


METHODS: dict[str, Callable[[VaDE, str], Answer]] = {
    "predict_proba": _proba,
    "transform": _coordinates,
}


class Graph(nn.Module):
    """Rows in the units of the data to answers, in the dtype of the rows."""

    def __init__(self, model: VaDE, responsibilities: str, method: str) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.answer = METHODS[method](model, responsibilities)

    def forward(self, rows: Tensor) -> Tensor:
        model, incomplete = self.model, rows.isnan().any()
        # Complete rows are spared the pass that finds what to expect.
        ways = model.seen, model.likelihood.standardize
        return self.answer(torch.cond(incomplete, *ways, (rows,))).to(rows.dtype)


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"to_onnx needs {error.name}. Install it with: "
            "python -m pip install 'skvade[onnx]'"
        ) from error


def export(
    model: VaDE, responsibilities: str, method: str, path: str | PathLike
) -> None:
    """Write what a method of the estimator computes, for any number of rows.

    Raises
    ------
    ImportError
        If the packages of the extra `onnx` are not installed.
    """
    _require_onnx()
    location = model.likelihood.location
    # Two rows, since torch takes a dimension of size one for a constant.
    rows = torch.zeros(2, len(location), dtype=location.dtype)
    torch.onnx.export(
        Graph(model, responsibilities, method).eval(),
        (rows,),
        path,
        dynamo=True,
        input_names=["X"],
        output_names=[method],
        dynamic_shapes=({0: torch.export.Dim("n_samples")},),
        external_data=False,
        verbose=False,
    )
