"""The conventions of docs/contributing.rst that a machine can check."""

import ast
import configparser
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import FunctionType

import pytest
from numpydoc.validate import validate

import skvade
import skvade.callbacks
import skvade.metrics
import skvade.plotting

ROOT = Path(__file__).resolve().parents[1]
PUBLIC_MODULES = (skvade, skvade.callbacks, skvade.metrics, skvade.plotting)

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

# Codes of numpydoc that are not required anywhere, as in scikit-learn.
DOCSTRING_IGNORE = {
    "GL01",  # the summary stands on the line of the opening quotes
    "GL02",  # a single line keeps its closing quotes
    "ES01",  # a short docstring may do without an extended summary
    "RT02",  # a single return value has a name
}
# Nor of a method: its class has both.
METHOD_IGNORE = DOCSTRING_IGNORE | {"SA01", "EX01"}

# Unknown, missing and misordered parameters of a section that lists parameters.
PARAMETER_CODES = {"PR01", "PR02", "PR03"}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in (ROOT / "skvade").rglob("*.py")}


def iter_imports(path):
    """Iterate over the module and the name, or None, of each import from skvade."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imports = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            imports = [(node.module, alias.name) for alias in node.names]
        else:
            continue
        for module, name in imports:
            if module == "skvade" or module.startswith("skvade."):
                yield module, name


def imported_modules(path):
    """Give the names of the modules of skvade that a file imports."""
    modules = set()
    for module, name in iter_imports(path):
        is_module = f"{module}.{name}" in MODULES
        modules.add(f"{module}.{name}" if is_module else module)
    return modules


# --- Imports, by the contracts of import-linter in setup.cfg ------------------------


def read_contracts(contract_type):
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    names = [name for name in config if name.startswith("importlinter:contract:")]
    return [config[name] for name in names if config[name]["type"] == contract_type]


def split_lines(text):
    return [line.strip() for line in text.splitlines() if line.strip()]


LAYERS = {
    contract["containers"].strip(): {
        module.strip(): depth
        for depth, line in enumerate(split_lines(contract["layers"]))
        for module in line.split("|")
    }
    for contract in read_contracts("layers")
}


def test_every_package_has_a_contract_but_the_public_ones():
    packages = {name for name, path in MODULES.items() if path.stem == "__init__"}
    assert {*LAYERS} == packages - {"skvade.plotting"}


@pytest.mark.parametrize("package", LAYERS)
def test_every_module_has_a_layer(package):
    children = {
        name.removeprefix(f"{package}.").split(".")[0]
        for name in MODULES
        if name.startswith(f"{package}.")
    }
    public = {name for name in children if not name.startswith("_")}
    if package == "skvade":
        children -= public
    assert {*LAYERS[package]} == children


@pytest.mark.parametrize("package", LAYERS)
def test_imports_go_to_lower_layers(package):
    depths = LAYERS[package]

    def layer_of(module):
        if module.startswith(f"{package}."):
            return module.removeprefix(f"{package}.").split(".")[0]
        return None

    wrong = []
    for name, path in MODULES.items():
        layer = layer_of(name)
        if layer not in depths:
            continue
        for imported in imported_modules(path):
            other = layer_of(imported)
            is_checked = other in depths and other != layer
            if is_checked and depths[other] <= depths[layer]:
                wrong.append((name, imported))
    assert not wrong


def test_public_modules_import_no_private_module():
    (contract,) = read_contracts("forbidden")
    sources = split_lines(contract["source_modules"])
    forbidden = split_lines(contract["forbidden_modules"])
    assert {*sources} == {module.__name__ for module in PUBLIC_MODULES} - {"skvade"}
    assert {*forbidden} == {f"skvade.{name}" for name in LAYERS["skvade"]}
    for name, path in MODULES.items():
        if name.startswith(tuple(sources)):
            modules = imported_modules(path)
            assert not {m for m in modules if m.startswith(tuple(forbidden))}, name


# --- Public names -------------------------------------------------------------------


def sort_key(name):
    """Order constants before classes before functions, as ruff sorts `__all__`."""
    kind = 0 if name.isupper() else 1 if name[0].isupper() else 2
    return kind, name


@pytest.mark.parametrize("name", MODULES)
def test_all_is_sorted_and_its_names_exist(name):
    names = getattr(importlib.import_module(name), "__all__", [])
    assert names == sorted({*names}, key=sort_key)
    module = importlib.import_module(name)
    assert [n for n in names if not hasattr(module, n)] == []


def test_all_lists_what_other_modules_import():
    missing = set()
    for path in MODULES.values():
        for module, name in iter_imports(path):
            is_name = name is not None and f"{module}.{name}" not in MODULES
            if is_name and name not in importlib.import_module(module).__all__:
                missing.add(f"{module}.{name}")
    assert not missing


def public_objects():
    for module in PUBLIC_MODULES:
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value):
                yield f"{module.__name__}.{name}", value


def public_methods():
    for path, value in public_objects():
        if inspect.isclass(value):
            ours = [c for c in value.__mro__ if c.__module__.startswith("skvade.")]
            members = [member for c in ours for member in vars(c).items()]
            for name, member in members:
                kinds = (FunctionType, classmethod, property)
                if isinstance(member, kinds) and not name.startswith("_"):
                    yield f"{path}.{name}"


# --- Docstrings; that their summaries are imperative is ruff's rule D401 ------------


@pytest.mark.parametrize("path", [path for path, _ in public_objects()])
def test_docstring(path):
    errors = validate(path)["errors"]
    assert not [error for error in errors if error[0] not in DOCSTRING_IGNORE]


@pytest.mark.parametrize("path", list(public_methods()))
def test_docstring_of_method(path):
    errors = validate(path)["errors"]
    assert not [error for error in errors if error[0] not in METHOD_IGNORE]


def documented_objects(module):
    """Iterate over the functions, classes and methods that a module defines."""
    for name, value in vars(module).items():
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value) or inspect.isclass(value):
            yield name
        if inspect.isclass(value):
            for member_name, member in vars(value).items():
                if isinstance(member, (FunctionType, classmethod)):
                    yield f"{name}.{member_name}"


@pytest.mark.parametrize("name", MODULES)
def test_parameter_sections_match_the_signatures(name):
    """That of a public object is required by the tests above."""
    errors = {}
    for path in documented_objects(importlib.import_module(name)):
        result = validate(f"{name}.{path}")
        if re.search(r"^\s*Parameters\n\s*-+$", result["docstring"] or "", re.M):
            wrong = [e for e in result["errors"] if e[0] in PARAMETER_CODES]
            if wrong:
                errors[path] = wrong
    assert not errors


# --- Documentation ------------------------------------------------------------------


def test_user_guide_mentions_every_parameter():
    page = (ROOT / "docs" / "user_guide" / "parameters.rst").read_text()
    names = skvade.VaDEClusterer().get_params()
    assert not [name for name in names if f"``{name}``" not in page]


def test_api_page_lists_every_public_name():
    listed = set((ROOT / "docs" / "api.rst").read_text().split())
    assert {path.split(".")[-1] for path, _ in public_objects()} <= listed


def test_contributing_page_lists_every_private_module():
    page = (ROOT / "docs" / "contributing.rst").read_text()
    private = [name for name in MODULES if name.startswith("skvade._")]
    files = [MODULES[name].name for name in private if name not in LAYERS]
    assert not [file for file in files if f" {file} " not in page]


def warning_texts():
    """Iterate over the texts of all warnings, without what is filled in."""
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                function = ast.unparse(node.func).removeprefix("warnings.")
                parts = [n for n in ast.walk(node) if isinstance(n, ast.Constant)]
                text = " ".join(n.value for n in parts if isinstance(n.value, str))
                if function.strip("_") == "warn" and text:
                    yield re.sub(r"\s+", " ", text)


def test_guide_lists_every_warning():
    """By the words that are emphasized in the first column of the table."""
    page = (ROOT / "docs" / "user_guide" / "diagnosing.rst").read_text()
    table = page.split("\nSymptoms without a warning\n")[0]
    cells = re.findall(r"^   \* - (.+(?:\n       .+)*)", table, re.M)[1:]
    listed = [re.findall(r"\*([^*]+)\*", cell) for cell in cells]
    assert all(listed)

    def contains(text, words):
        return all(part in text for part in words)

    texts = [*warning_texts()]
    assert not [t for t in texts if not any(contains(t, words) for words in listed)]
    assert not [w for w in listed if not any(contains(text, w) for text in texts)]


def test_citation_names_the_version():
    text = (ROOT / "docs" / "CITATION.cff").read_text()
    assert re.findall(r"^version: (.+)$", text, re.MULTILINE) == [skvade.__version__]


# --- Imports without side effects ---------------------------------------------------

IMPORT_WITHOUT_SIDE_EFFECTS = """
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
"""


def run_python(code):
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.stderr == ""
    return result.stdout


def test_import_has_no_side_effects():
    assert run_python(IMPORT_WITHOUT_SIDE_EFFECTS) == "[]\n"


def test_import_needs_no_optional_dependency():
    optional = ["matplotlib", "onnx", "onnxscript", "pandas", "rich", "umap"]
    block = f"import sys; sys.modules.update(dict.fromkeys({optional}))"
    assert run_python(f"{block}\nimport skvade.metrics, skvade.plotting") == ""


# --- The repository -----------------------------------------------------------------


def tracked_files():
    command = ["git", "ls-files", "-z"]
    try:
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("needs git")
    files = [name for name in result.stdout.split("\0") if name]
    if result.returncode or not files:
        pytest.skip("needs a git checkout")
    return files


def test_top_level_of_the_repository():
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
