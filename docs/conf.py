"""Sphinx: the pages of the repository and a reference made from the docstrings.

The source folder is the root of the repository, so that links between pages are the same on a
forge and in the built pages: sphinx-build -W -n -c docs . build/docs
"""

import cpuattn

project = "cpuattn"
author = "the cpuattn developers"
release = version = cpuattn.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc", "myst_parser"]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "docs/*.rst",
    "*.md",
    "benchmarks/README.md",
    "cpp/README.md",
]
# A name in single backticks is a link where it is a public name, else a parameter.
default_role = "autolink"

# The sections of a docstring name types and shapes; annotations beside them would say it twice.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 88
numpydoc_show_class_members = False
# All checks but these: PR08 wants capitals, where a description may begin with a dtype; the rest
# want sections that not every docstring needs (extended summary, examples, see also).
numpydoc_validation_checks = {"all", "ES01", "EX01", "PR08", "SA01"}
# A tuple of outputs, documented where it is returned; classes that onnx makes the instances of.
numpydoc_validation_exclude = {r"\.AttentionOutputs", r"\.onnx_ops\."}

myst_heading_anchors = 3

html_theme = "alabaster"
html_title = "cpuattn"
html_theme_options = {
    "description": "Exact softmax attention for CPUs",
    "fixed_sidebar": True,
    "page_width": "1200px",
    "sidebar_width": "260px",
}
