"""Settings of the documentation site; ``make docs`` builds it, without network, and a warning is an error."""

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import pages  # noqa: E402 - it lies beside this file

from blob_pyro import __version__  # noqa: E402

project, author, release = "blob-pyro", "The blob-pyro developers", __version__
copyright = author

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type"]  # of outputs that only a running kernel shows
nb_execution_mode = "off"
exclude_patterns = ["_build", "jupyter_execute", "**/.ipynb_checkpoints"]

html_theme = "furo"
html_title = "blob-pyro"
html_theme_options = {"navigation_with_keys": True}
html_copy_source = False
html_css_files = ["site.css"]
html_static_path = ["_static"]
html_math_renderer = "mathml"  # browsers know it; MathJax would come from elsewhere

default_role = "py:obj"
autosummary_generate = False  # the pages of the reference are written by pages.py
autodoc_typehints_format = "short"
autodoc_member_order = "groupwise"
toc_object_entries_show_parents = "hide"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_use_rtype = False
napoleon_use_ivar = True  # attributes are listed with their class, and documented once


def setup(app):
    """Write what is not written by hand, and tell Sphinx how docstrings name things."""
    shutil.rmtree(HERE / "generated", ignore_errors=True)
    pages.write_all(HERE / "generated")
    app.add_html_math_renderer("mathml", *pages.MATHML)
    app.connect("missing-reference", pages.by_its_end)
