"""Another project owns the name `sdot` on the public index, with the same import name. Say so when both are installed."""

from __future__ import annotations

import warnings
from importlib.metadata import distributions

SUMMARY = "Semi-discrete optimal transport for PyTorch: certified maps from noise onto millions of points"


def warn_of_other_distribution() -> None:
    others = {f"{d.version} ({d.metadata['Summary']})" for d in distributions(name="sdot") if d.metadata["Summary"] != SUMMARY}
    if others:
        warnings.warn(
            f"another distribution called sdot is installed: {', '.join(sorted(others))}. Both answer to `import sdot`; run "
            f"`pip uninstall sdot` until none is left, then install the one you mean (this one installs from its repository).",
            RuntimeWarning,
            stacklevel=3,
        )
