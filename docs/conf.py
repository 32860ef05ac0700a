"""How the site is built: python -m sphinx -W -b html docs docs/_build/html.

Nothing is fetched from the network, neither in building it nor in reading it.
"""

import logging
import os
import re
import shutil
import warnings
from pathlib import Path

from docutils import nodes
from sphinx_gallery.sorting import ExplicitOrder

import skvade

# To check that the examples run, fits of a few steps are enough.
if os.environ.get("SHORT_FITS"):
    defaults = skvade.VaDEClusterer.__init__.__kwdefaults__
    defaults.update(pretrain_max_iter=1, max_iter=12)

# The gallery shows progress bars as they are in the end, as plain text: no matter
# whether it is built in a terminal.
os.environ["TTY_COMPATIBLE"] = "0"
# Nor does it show what PyTorch says of itself while it exports to ONNX.
logging.getLogger("torch.onnx").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", r"`isinstance\(treespec", FutureWarning)

project = "skvade"
author = "the skvade developers"
copyright = author
release = skvade.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.bibtex",
    "sphinx-mathjax-offline",
]
exclude_patterns = ["_build", "examples", "**sg_execution_times.rst"]
templates_path = ["_templates"]

bibtex_bibfiles = ["references.bib"]
autodoc_typehints = "none"
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "auto_examples",
    # It runs in several processes; the page `distributed` shows it.
    "ignore_pattern": r"__init__\.py|distributed\.py",
    "backreferences_dir": "auto_examples/backreferences",
    "doc_module": ("skvade",),
    "within_subsection_order": ExplicitOrder(
        [
            "plot_digits.py",
            "plot_latent_space.py",
            "plot_n_clusters.py",
            # data
            "plot_customers.py",
            "plot_mixed_table.py",
            "plot_embeddings.py",
            "plot_text.py",
            "plot_documents.py",
            "plot_cells.py",
            "plot_counts.py",
            "plot_missing_values.py",
            "plot_streaming.py",
            # understand
            "plot_map.py",
            "plot_generation.py",
            "plot_outliers.py",
            "plot_callbacks.py",
            "plot_own_networks.py",
            "plot_deploy.py",
        ]
    ),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "remove_config_comments": True,
    "capture_repr": (),
}

# What an example prints is not for copying.
copybutton_selector = "div:not(.sphx-glr-script-out) > div.highlight > pre"
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

# The gallery writes these pages; the check looks for a file beside the source.
linkcheck_ignore = [r"auto_examples/.*\.html"]

html_theme = "pydata_sphinx_theme"
html_title = "skvade"
html_theme_options = {
    "show_prev_next": False,
    # The widest tables need the room.
    "secondary_sidebar_items": {"**": ["page-toc"], "benchmarks": []},
}
# A page without pages below it has nothing to list there.
html_sidebars = {"installation": []}
html_static_path = ["_static"]
html_css_files = ["skvade.css"]
html_show_sourcelink = False
html_copy_source = False


def link_to_scikit_learn(app, env, node, content):
    """Link a class or function of scikit-learn to its page, without its inventory."""
    name = node.get("reftarget", "")
    if not name.startswith("sklearn."):
        return None
    page = f"https://scikit-learn.org/stable/modules/generated/{name}.html"
    return nodes.reference("", "", content, refuri=page, internal=False)


def skip_inherited_plumbing(app, what, name, obj, skip, options):
    """Leave to scikit-learn's pages what links to its glossary and guide."""
    pattern = r"set_\w+_request|get_metadata_routing|set_output"
    return True if re.fullmatch(pattern, name) else None


def escape_fitted_attributes(app, what, name, obj, options, lines):
    """Let n_features_in_ stand in a shape, where it would be a link to a target."""
    lines[:] = [re.sub(r"(?<![`\w])(\w+)_(?=[,)])", r"\1\\_", line) for line in lines]


def copy_measurements(app, error):
    """Put the files that the tables link to where their links point."""
    target = Path(app.outdir) / "benchmarks"
    target.mkdir(exist_ok=True)
    for path in (Path(app.srcdir) / "benchmarks").glob("*.csv"):
        shutil.copy(path, target)


def setup(app):
    app.connect("missing-reference", link_to_scikit_learn)
    app.connect("autodoc-skip-member", skip_inherited_plumbing)
    app.connect("autodoc-process-docstring", escape_fitted_attributes)
    app.connect("build-finished", copy_measurements)
