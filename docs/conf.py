"""Sphinx settings. `make docs` builds docs/ into docs/_build, tutorials included, with warnings as errors."""

import os
import re
import tomllib
import warnings
from pathlib import Path
from typing import Any

import torch
from docutils.nodes import SkipNode, math, math_block
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx_gallery.sorting import ExplicitOrder

HERE = Path(__file__).parent
os.environ["MPLBACKEND"] = "agg"
torch.set_num_threads(1)  # the problems are small, and the build takes as long on any machine

metadata = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
project, release, author = metadata["name"], metadata["version"], "The sdot authors"
copyright = author
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "tutorials"]
suppress_warnings = ["config.cache"]
highlight_language = "none"
pygments_style = "friendly"

myst_enable_extensions = ["dollarmath", "amsmath"]
html_math_renderer = "mathml"  # below: browsers show it by themselves, and nothing is fetched
myst_heading_anchors = 3

html_theme = "pydata_sphinx_theme"
html_title = "sdot"
html_static_path = ["_static"]
html_css_files = ["sdot.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "navbar_align": "left",
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_prev_next": True,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 9,
}
html_sidebars = {key: [] for key in ("index", "changelog", "references", "benchmarks", "extending", "notation")}

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_use_type_comments = False
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
napoleon_use_rtype = False
napoleon_use_ivar = True
default_role = "literal"
add_module_names = False
python_use_unqualified_type_names = True
maximum_signature_line_length = 88


def style(_: dict[str, Any], __: str) -> None:
    """The look of the pictures. Warnings that a tutorial does not catch end the build."""
    import matplotlib.pyplot as plt

    plt.style.use(HERE / "tutorials" / "sdot.mplstyle")
    warnings.filterwarnings("error", module="__main__")


TUTORIALS = ("plane", "digits", "flow_matching", "pot", "sources")
sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_",
    "within_subsection_order": ExplicitOrder([f"plot_{name}.py" for name in TUTORIALS]),
    "reset_modules": (style,),
    "image_scrapers": ("matplotlib",),
    "thumbnail_size": (480, 336),
    "download_all_examples": False,
    "show_signature": False,
    "show_memory": False,
    "min_reported_time": 10**6,
    "write_computation_times": False,
    "remove_config_comments": True,
    "abort_on_example_error": True,
    "capture_repr": (),
}


def plain_shapes(text: str) -> str:
    """Float[Tensor, "n d"] as Tensor[n, d]: what a reader wants to know of an annotation."""
    kinds = {"Float": "", "Int": "int ", "Bool": "bool "}

    def shaped(found: re.Match[str]) -> str:
        return f"{kinds[found[1]]}Tensor[{', '.join(found[2].replace('#', '').split())}]"

    return re.sub(r"""~?(?:jaxtyping\.)?(Float|Int|Bool)\[~?(?:torch\.)?Tensor, ['"]([^'"]*)['"]\]""", shaped, text)


def signature(_: Sphinx, __: str, ___: str, ____: Any, _____: Any, arguments: str | None, result: str | None) -> Any:
    return tuple(part and plain_shapes(part) for part in (arguments, result))


def docstring(_: Sphinx, __: str, ___: str, ____: Any, _____: Any, lines: list[str]) -> None:
    """Docstrings are plain text with backticks: bars and stars mean themselves, and tables are those of Markdown."""
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines if line.startswith("| ")]
    first = next((k for k, line in enumerate(lines) if line.startswith("| ")), len(lines))
    kept = [line for line in lines if not line.startswith("| ")]
    table = [".. list-table::", "   :header-rows: 1", ""]
    for row in (row for row in rows if row[0].strip("-")):
        table += [f"   {'* -' if k == 0 else '  -'} {cell}" for k, cell in enumerate(row)]
    lines[:] = [re.sub(r"(`[^`]*`)|([|*])", lambda f: f[1] or f"\\{f[2]}", line) for line in kept]
    if rows:
        lines[first:first] = [*table, ""]


def links(_: Sphinx, __: str, content: list[str]) -> None:
    """A tutorial is its program where files are read, and its page here."""
    content[0] = re.sub(r"\]\(tutorials/(plot_\w+)\.py\)", r"](gallery/\1.rst)", content[0])


def inline_mathml(translator: Any, node: math) -> None:
    translator.body.append(convert(node.astext()))
    raise SkipNode


def block_mathml(translator: Any, node: math_block) -> None:
    translator.body.append(f'<div class="formula">{convert(node.astext(), display="block")}</div>\n')
    raise SkipNode


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("mathml", (inline_mathml, None), (block_mathml, None))
    for field in PyObject.doc_field_types:  # of dataclasses
        field.label = "Attributes" if field.name == "variable" else field.label
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-process-docstring", docstring, priority=400)  # before napoleon
    app.connect("source-read", links)
