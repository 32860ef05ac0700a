"""Fitted models as ONNX files, which run without torch and skvade."""

from collections.abc import Callable
from os import PathLike

import torch
from torch import Tensor, nn

from skvade._inference import make_log_responsibilities
from skvade._model.elbo import Posterior
from skvade._model.module import VaDE

__all__ = ["METHODS", "export_onnx"]

Output = Callable[[Tensor], Tensor]  # of standardized samples


def _predict_proba(module: VaDE, responsibilities: str) -> Output:
    log_responsibilities = make_log_responsibilities(module, responsibilities)

    def output(x: Tensor) -> Tensor:
        mean, log_variance = module.encoder(module.likelihood.encoder_input(x))
        posterior = Posterior(mean.double(), log_variance.double())
        return log_responsibilities(posterior).exp()

    return output


def _transform(module: VaDE, responsibilities: str) -> Output:
    return lambda x: module.encoder.encode_mean(module.likelihood.encoder_input(x))


METHODS: dict[str, Callable[[VaDE, str], Output]] = {
    "predict_proba": _predict_proba,
    "transform": _transform,
}


class Graph(nn.Module):
    """A method on samples in the units of the data, in the dtype of the samples."""

    def __init__(self, module: VaDE, responsibilities: str, method: str) -> None:
        super().__init__()
        self.module = module.requires_grad_(False)
        self.output = METHODS[method](module, responsibilities)

    def forward(self, X: Tensor) -> Tensor:
        module = self.module
        # Complete samples are spared the imputation.
        branches = module.preprocess, module.likelihood.standardize
        x = torch.cond(X.isnan().any(), *branches, (X,))
        return self.output(x).to(X.dtype)


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"to_onnx needs {error.name}. Install it with: "
            "python -m pip install 'skvade[onnx]'"
        ) from error


def export_onnx(
    module: VaDE, responsibilities: str, method: str, path: str | PathLike
) -> None:
    """Write what a method of the estimator computes, for any number of samples.

    Parameters
    ----------
    module : VaDE
        On the CPU, in float32 or float64.
    responsibilities : {"expected", "sampled"}
        Parameter of the estimator.
    method : str
        A key of `METHODS`.
    path : str or path-like
        The file.

    Raises
    ------
    ImportError
        If the packages of the extra `onnx` are not installed.
    """
    _require_onnx()
    location = module.likelihood.location
    # Two samples, since torch takes a dimension of size one for a constant.
    X = torch.zeros(2, len(location), dtype=location.dtype, device=location.device)
    torch.onnx.export(
        Graph(module, responsibilities, method).eval(),
        (X,),
        path,
        dynamo=True,
        input_names=["X"],
        output_names=[method],
        dynamic_shapes=({0: torch.export.Dim("n_samples")},),
        external_data=False,
        verbose=False,
    )
