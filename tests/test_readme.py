"""What the README says holds: its example, its output, its files and its version."""

import re
from pathlib import Path

import pytest

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
