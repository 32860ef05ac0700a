"""The code blocks of the user guide run, in their order, on few samples and epochs."""

import os
import re
import textwrap
import warnings
from pathlib import Path

import pytest
import sklearn.datasets
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

from skvade import VaDEClusterer

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "user_guide.rst"
BLOCK = re.compile(r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", re.MULTILINE)


def code_blocks():
    """Iterate over the line number and the code of each block."""
    text = GUIDE.read_text()
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start(1)) + 1
        yield line, textwrap.dedent(match[1])


# torch's own exporter meets a deprecation of torch's own pytree.
@pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)`:FutureWarning")
def test_code_blocks_run(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib").use("agg")
    defaults = VaDEClusterer.__init__.__kwdefaults__
    for name in ("pretrain_max_iter", "warmup_max_iter", "max_iter"):
        monkeypatch.setitem(defaults, name, 1)
    images, y = load_digits(return_X_y=True)
    few = images[:500], y[:500]
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda return_X_y: few)
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for line, code in code_blocks():
        # The line numbers of an error are then those of the page.
        compiled = compile("\n" * (line - 1) + code, os.fspath(GUIDE), "exec")
        with warnings.catch_warnings():
            # Models that are hardly trained.
            warnings.simplefilter("ignore", ConvergenceWarning)
            exec(compiled, namespace)
    assert len(namespace["labels"]) == len(namespace["customers"])
