"""How Sphinx builds the site: `make docs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import jupytext
import reference
from sphinx.util.inspect import TypeAliasForwardRef

import decoding

project = "decoding-toolkit"
author = "the decoding-toolkit developers"
version = release = decoding.__version__
copyright = "the decoding-toolkit developers, Apache-2.0"

extensions = ["myst_nb", "sphinx.ext.autodoc"]
exclude_patterns = ["*.py", "notebooks/*.ipynb"]
myst_heading_anchors = 3
highlight_language = "text"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
# The name, and not the union that it stands for.
autodoc_type_aliases = {"ArrayLike": "ArrayLike"}
TypeAliasForwardRef.__repr__ = lambda alias: alias.name
autodoc_class_signature = "mixed"
maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

# Notebooks are scripts in the percent format. An assertion that fails in one fails the build.
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_output_stderr = "remove"
NOTEBOOKS = Path(__file__).with_name("notebooks")

html_theme = "furo"
html_title = "decoding-toolkit"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False

# What lies outside this folder: the page of the site that includes it.
OUTSIDE = {
    "../benchmarks/RESULTS.md": "results.md",
    "../decoding/stories/MODEL_CARD.md": "model-card.md",
    "../CHANGELOG.md": "changelog.md",
    "../CONTRIBUTING.md": "contributing.md",
    "../README.md": "index.md",
}


def point_inside(app, name, source):
    """Let links that lead out of this folder lead to the site's own pages."""
    for outside, page in OUTSIDE.items():
        source[0] = source[0].replace(f"]({outside}", f"]({page}")


def write_notebooks(app):
    """Write each notebook as an .ipynb file for the reader to download."""
    for path in NOTEBOOKS.glob("*.py"):
        notebook = jupytext.read(path, fmt="py:percent")
        notebook.metadata.kernelspec = {
            "name": "python3", "display_name": "Python 3", "language": "python",
        }  # fmt: skip
        jupytext.write(notebook, path.with_suffix(".ipynb"))


def run_again(app, env, added, changed, removed):
    """Notebooks run at every build: what they show changes with the library."""
    return [name for name in env.found_docs if name.startswith("notebooks/")]


def setup(app):
    """Write the reference before pages are read, and mend links as they are."""
    app.connect("builder-inited", reference.write)
    app.connect("builder-inited", write_notebooks)
    app.connect("env-get-outdated", run_again)
    app.connect("source-read", point_inside)
    app.connect("autodoc-process-docstring", reference.as_restructured_text)
