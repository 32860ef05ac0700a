"""What the README says holds: its example, its output, its files and its version."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning

import skvade

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.rst").read_text()


def block(marker):
    """Give the indented block that follows a comment, as `.ci/run` does."""
    after = README.split(f".. {marker}\n")[1]
    return re.search(r"(?:^    .*\n|^\n)+", after.partition("\n\n")[2], re.M).group()


def test_example_prints_what_the_readme_says(capsys):
    """Accuracy differs between CPUs, which round in other places."""
    lines = [line[4:] for line in block("command: example").splitlines()]
    exec(compile("\n".join(lines), "README.rst", "exec"), {})
    printed = capsys.readouterr().out.split()
    expected = block("output: example").split()
    assert len(printed) == len(expected)
    for got, wanted in zip(printed, expected, strict=True):
        if re.fullmatch(r"0\.\d+", wanted):
            assert float(got) == pytest.approx(float(wanted), abs=0.06)
        else:
            assert got == wanted


def test_example_of_a_table_runs(tmp_path, monkeypatch):
    """It writes a model that predicts, and a plot. A short fit is enough."""
    pd = pytest.importorskip("pandas")
    pytest.importorskip("matplotlib").use("agg")
    defaults = skvade.VaDEClusterer.__init__.__kwdefaults__
    for name in ("pretrain_max_iter", "warmup_max_iter", "max_iter"):
        monkeypatch.setitem(defaults, name, 1)
    X, _ = make_blobs(100, 3, centers=3, random_state=0)
    table = pd.DataFrame(X, columns=["age", "orders", "spent"]).mask(X > 9)
    table["channel"] = "app"
    table.to_csv(tmp_path / "customers.csv", index_label="customer_id")
    monkeypatch.chdir(tmp_path)
    lines = [line[4:] for line in block("command: table").splitlines()]
    namespace = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        exec(compile("\n".join(lines), "README.rst", "exec"), namespace)
    loaded = namespace["joblib"].load("clusters.joblib")
    labels = loaded.predict(namespace["X"])
    assert np.array_equal(labels, namespace["table"]["cluster"])
    assert Path("clusters.png").stat().st_size


def test_files_that_the_readme_names_exist():
    names = re.findall(r"(?:docs|tests)/[\w./]*\w", README)
    assert names
    assert not [name for name in names if not (ROOT / name).exists()]


def test_readme_has_no_relative_links():
    """They would lead nowhere in the description of the wheel."""
    links = re.findall(r"<([^>\s]+)>`_", README)
    assert not [link for link in links if not link.startswith("https://")]


def test_readme_cites_this_version():
    assert f"version {skvade.__version__}" in README
