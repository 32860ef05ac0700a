"""The rules of docs/contributing.rst that a machine can check."""

import ast
import configparser
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import FunctionType

import pytest
from numpydoc.validate import validate

import skvade
import skvade.metrics
import skvade.plotting

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {path.stem: path for path in (ROOT / "skvade").glob("*.py")}
PUBLIC = [path for name, path in ROOMS.items() if not name.startswith("_")]
PUBLIC += (ROOT / "skvade").glob("*/*.py")
MODULES = (skvade, skvade.metrics, skvade.plotting)

# Names that git may track beside dotfiles.
TOP_LEVEL = {
    "LICENSE",
    "README.rst",
    "docs",
    "pyproject.toml",
    "setup.cfg",
    "skvade",
    "tests",
}

# Codes of numpydoc that are not asked of anybody, as in scikit-learn.
DOCSTRING_IGNORE = {
    "GL01",  # the summary stands on the line of the opening quotes
    "GL02",  # a single line keeps its closing quotes
    "ES01",  # a short docstring may do without an extended summary
    "RT02",  # a single return value has a name
}
# Of a method neither: its class has both.
METHOD_IGNORE = DOCSTRING_IGNORE | {"SA01", "EX01"}


def floors():
    """Floor of each private room, counted from the door down."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    layers = config["importlinter:contract:layers"]["layers"].split("\n")
    rooms_by_floor = [line.split("|") for line in layers if line.strip()]
    return {
        room.strip(): floor
        for floor, rooms in enumerate(rooms_by_floor)
        for room in rooms
    }


def imported_rooms(path):
    """Rooms that a file of the package imports from, wherever the import stands."""
    modules = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, ["skvade" * node.level, node.module]))
            modules += [f"{base}.{alias.name}" for alias in node.names]
    paths = [module.split(".") for module in modules]
    return {"".join(path[1:2]) for path in paths if path[0] == "skvade"}


def public_objects():
    for module in MODULES:
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value):
                yield f"{module.__name__}.{name}", value


def public_methods():
    for path, value in public_objects():
        if inspect.isclass(value):
            own = [c for c in value.__mro__ if c.__module__.startswith("skvade.")]
            members = [member for c in own for member in vars(c).items()]
            for name, member in members:
                kinds = (FunctionType, classmethod, property)
                if isinstance(member, kinds) and not name.startswith("_"):
                    yield f"{path}.{name}"


def tracked_files():
    command = ["git", "ls-files", "-z"]
    try:
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("needs git")
    files = [name for name in run.stdout.split("\0") if name]
    if run.returncode or not files:
        pytest.skip("needs a git checkout")
    return files


def test_every_private_room_has_a_floor():
    private = {room for room in ROOMS if room.startswith("_")} - {"__init__"}
    assert private == set(floors())


@pytest.mark.parametrize("room", sorted(floors()))
def test_imports_run_downhill(room):
    floor = floors()
    below = {other for other in floor if floor[other] > floor[room]}
    assert imported_rooms(ROOMS[room]) <= below


@pytest.mark.parametrize("path", PUBLIC, ids=lambda path: path.stem)
def test_public_rooms_import_no_private_room(path):
    assert not {room for room in imported_rooms(path) if room.startswith("_")}


def test_catalog():
    for module in MODULES:
        assert len(set(module.__all__)) == len(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)
    assert len(ROOMS["__init__"].read_text().splitlines()) <= 20


@pytest.mark.parametrize("path", [path for path, _ in public_objects()])
def test_docstring(path):
    errors = validate(path)["errors"]
    assert not [error for error in errors if error[0] not in DOCSTRING_IGNORE]


@pytest.mark.parametrize("path", list(public_methods()))
def test_docstring_of_method(path):
    errors = validate(path)["errors"]
    assert not [error for error in errors if error[0] not in METHOD_IGNORE]


def test_user_guide_has_a_word_on_every_parameter():
    guide = (ROOT / "docs" / "user_guide.rst").read_text()
    names = skvade.VaDEClusterer().get_params()
    assert not [name for name in names if f"``{name}``" not in guide]


def test_api_page_lists_every_public_name():
    listed = set((ROOT / "docs" / "api.rst").read_text().split())
    assert {path.split(".")[-1] for path, _ in public_objects()} <= listed


IMPORT_WITHOUT_TRACE = """
import os, random, sys, warnings
import numpy as np, sklearn.callback, torch  # rich draws from `random` on import

def state():
    return {
        "random": random.getstate(),
        "numpy": repr(np.random.get_state()),
        "torch seed": torch.initial_seed(),
        "torch generator": torch.get_rng_state().tolist(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "default dtype": torch.get_default_dtype(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "gradients": torch.is_grad_enabled(),
        "scikit-learn": sklearn.get_config(),
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
    }

before = state()
import skvade.plotting
after = state()
print([name for name in before if before[name] != after[name]])
print([name for name in ("matplotlib", "torchvision") if name in sys.modules])
"""


def test_import_leaves_no_trace():
    command = [sys.executable, "-W", "error", "-c", IMPORT_WITHOUT_TRACE]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.stderr == ""
    assert run.stdout.split("\n") == ["[]", "[]", ""]


def test_modules_are_short():
    files = [*ROOT.glob("skvade/**/*.py"), *ROOT.glob("tests/**/*.py")]
    lengths = {path.name: len(path.read_text().splitlines()) for path in files}
    assert not {name: n for name, n in lengths.items() if n > 450}


def test_top_level_holds_what_it_should():
    names = {name.split("/")[0] for name in tracked_files()}
    assert {name for name in names if not name.startswith(".")} <= TOP_LEVEL


def test_files_name_no_machine_and_no_registry():
    machine = r"(?<![\w.:/])/(work|root|home|Users|opt)/\w"
    registry = r"pypi\.org|pythonhosted\.org|download\.pytorch|--(extra-)?index-url"
    pattern = re.compile(f"{machine}|{registry}")
    found = {
        name: match.group()
        for name in tracked_files()
        if (match := pattern.search((ROOT / name).read_text(errors="ignore")))
    }
    assert not found


def test_readme():
    text = (ROOT / "README.rst").read_text()
    assert len(text.splitlines()) <= 90
    links = re.findall(r"<((?!https?:)[^>\s]+)>`_", text)
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_citation_names_the_version():
    text = (ROOT / "docs" / "CITATION.cff").read_text()
    assert re.findall(r"^version: (.+)$", text, re.MULTILINE) == [skvade.__version__]
