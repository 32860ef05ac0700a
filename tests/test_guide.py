"""The code of each page of the user guide runs, on few samples and epochs."""

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

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = {path.stem: path for path in sorted((DOCS / "user_guide").glob("*.rst"))}
BLOCK = re.compile(r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", re.MULTILINE)


def code_blocks(page):
    """Iterate over the line number and the code of each block."""
    text = page.read_text()
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start(1)) + 1
        yield line, textwrap.dedent(match[1])


def test_index_lists_every_page_twice():
    """With a sentence, and in the table of contents."""
    index = (DOCS / "user_guide.rst").read_text()
    assert set(re.findall(r"^:doc:`user_guide/(\w+)`$", index, re.M)) == set(PAGES)
    assert set(re.findall(r"^   user_guide/(\w+)$", index, re.M)) == set(PAGES)


# torch's own exporter meets a deprecation of torch's own pytree.
@pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)`:FutureWarning")
@pytest.mark.parametrize(
    "name", [name for name in PAGES if [*code_blocks(PAGES[name])]]
)
def test_code_blocks_run(name, monkeypatch, tmp_path):
    """A page makes all that it uses, and its blocks run in their order."""
    pytest.importorskip("matplotlib").use("agg")
    defaults = VaDEClusterer.__init__.__kwdefaults__
    for budget in ("pretrain_max_iter", "warmup_max_iter", "max_iter"):
        monkeypatch.setitem(defaults, budget, 1)
    images, y = load_digits(return_X_y=True)
    few = images[:500], y[:500]
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda return_X_y: few)
    monkeypatch.chdir(tmp_path)
    page, namespace = PAGES[name], {}
    for line, code in code_blocks(page):
        # The line numbers of an error are then those of the page.
        compiled = compile("\n" * (line - 1) + code, os.fspath(page), "exec")
        with warnings.catch_warnings():
            # Models that are hardly trained.
            warnings.simplefilter("ignore", ConvergenceWarning)
            exec(compiled, namespace)
