"""Maps and complexes on disk: safetensors for the numbers, one JSON string for the rest."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import _files
from .certificate import Certificate
from .extension import RULES, PiecewiseLinearMap
from .maps import BrenierMap
from .measures import Draw, Gaussian, Source, UniformBall, UniformCube
from .simplicial import SimplicialComplex

KIND = "map"
VERSION = 1
SOURCES = (UniformCube, UniformBall, Gaussian)
PROBE = 10_000  # samples that tell the share an extension moves
TENSORS = {
    "BrenierMap": ("points", "heights"),
    "PiecewiseLinearMap": ("points", "heights", "max_edge_length"),
    "SimplicialComplex": ("simplices.1", "max_edge_length"),
}


@dataclass(frozen=True)
class FileInfo:
    """What a map file says of itself.

    Attributes:
        map: Name of the map's class.
        points: Number of targets.
        dim: Their dimension.
        dtype: Their dtype.
        source: The measure that the map carries, if it was saved with one of the library's own.
        certificate: The certificate that was saved with it, if any.
        weights: How an extension blends; None for a Brenier map.
        max_edge_length: How far apart targets may be that it blends.
        moved: The share of the source that it does not send to a target, if it was saved with its source.
    """

    map: str
    points: int
    dim: int
    dtype: str
    source: Source | None
    certificate: Certificate | None
    weights: str | None = None
    max_edge_length: float | None = None
    moved: float | None = None


def save(
    T: nn.Module | SimplicialComplex,
    path: str | os.PathLike[str],
    *,
    source: Source | None = None,
    certificate: Certificate | None = None,
) -> None:
    """Write a map or a simplicial complex, atomically.

    Args:
        T: A map of this library, or a `SimplicialComplex`.
        path: File to write, by custom `*.safetensors`.
        source: The measure that the map carries, so that `sdot sample` can draw from it. A sampler of your own cannot be
            written and is left out.
        certificate: Its certificate, for `sdot info`.

    Raises:
        ValueError: Not a map of this library, or a file that cannot be written.
    """
    if isinstance(T, SimplicialComplex):
        numbers, about = pack_complex(T)
        return _files.write(path, numbers, {"kind": KIND, "version": VERSION, "map": "SimplicialComplex", **about})
    if not isinstance(T, BrenierMap | PiecewiseLinearMap):
        raise ValueError(f"save writes maps of this library, such as solution.map, but a {type(T).__name__} came.")
    brenier = T.map if isinstance(T, PiecewiseLinearMap) else T
    tensors: dict[str, Tensor] = {"points": brenier.points, "heights": brenier.heights}
    info: dict[str, Any] = {"kind": KIND, "version": VERSION, "map": type(T).__name__}
    if isinstance(T, PiecewiseLinearMap):
        tensors |= {f"rule.{name}": value for name, value in T.rule.named_buffers()}
        tensors["max_edge_length"] = torch.tensor(T.max_edge_length, dtype=torch.float64)  # inf is no JSON
        info["extension"] = {"weights": T.weights, "settings": T.rule.settings}
        if source is not None:
            (x,) = Draw(source, T.points, 0, 0)(PROBE)  # keyed, so that the same map is the same file
            info["extension"]["moved"] = T.share_moved(x)
    if isinstance(source, SOURCES):
        settings = {name: value for name, value in vars(source).items() if not name.startswith("_")}
        tensors |= {f"source.{name}": value for name, value in settings.items() if isinstance(value, Tensor)}
        plain = {name: value for name, value in settings.items() if not isinstance(value, Tensor)}
        info["source"] = {"class": type(source).__name__, **plain}
    if certificate is not None:
        info["certificate"] = asdict(certificate)
    return _files.write(path, tensors, info)


def load(path: str | os.PathLike[str], device: str = "cpu") -> Any:
    """Read what `save` has written: a map or a simplicial complex.

    Raises:
        ValueError: A file that is missing, cut short, foreign or of a later version.
    """
    tensors, about = _read(path, device)
    if about["map"] == "SimplicialComplex":
        return unpack_complex(tensors, about)
    T = BrenierMap(tensors["points"], tensors["heights"])
    if about["map"] == "BrenierMap":
        return T
    extension = about["extension"]
    buffers = {name.removeprefix("rule."): t for name, t in tensors.items() if name.startswith("rule.")}
    return PiecewiseLinearMap.restored(
        T, extension["weights"], buffers, extension["settings"], float(tensors["max_edge_length"])
    )


def info(path: str | os.PathLike[str]) -> FileInfo:
    """Read what a map file says of itself. Errors as for `load`."""
    tensors, about = _read(path, "cpu")
    if about["map"] == "SimplicialComplex":
        raise ValueError(f"{path} holds a SimplicialComplex, but a map was expected; read it with load.")
    source, certificate = None, about.get("certificate")
    if about.get("source"):
        settings = dict(about["source"])
        kind: Any = {cls.__name__: cls for cls in SOURCES}[settings.pop("class")]
        parts = {name.removeprefix("source."): t for name, t in tensors.items() if name.startswith("source.")}
        source = kind(**settings, **parts)
    points, extension = tensors["points"], about.get("extension", {})
    return FileInfo(
        map=about["map"],
        points=points.shape[0],
        dim=points.shape[1],
        dtype=str(points.dtype).removeprefix("torch."),
        source=source,
        certificate=Certificate(**certificate) if certificate else None,
        weights=extension.get("weights"),
        max_edge_length=float(tensors["max_edge_length"]) if extension else None,
        moved=extension.get("moved"),
    )


def pack_complex(K: SimplicialComplex) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A complex as tensors and JSON-able information."""
    tensors = {f"simplices.{k}": rows for k, rows in enumerate(K.simplices) if k > 0}
    tensors["max_edge_length"] = torch.tensor(K.max_edge_length, dtype=torch.float64)  # inf is no JSON
    return tensors, {"vertices": K.num_vertices, "max_dim": len(K.simplices) - 1, "reason": K.reason}


def unpack_complex(tensors: dict[str, Tensor], about: dict[str, Any]) -> SimplicialComplex:
    """The inverse of `pack_complex`."""
    rows = [tensors[f"simplices.{k}"] for k in range(1, about["max_dim"] + 1)]
    vertices = torch.arange(about["vertices"], device=rows[0].device)[:, None]
    return SimplicialComplex((vertices, *rows), float(tensors["max_edge_length"]), about["reason"])


def _read(path: str | os.PathLike[str], device: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, about = _files.read(path, KIND, device)
    if about.get("version", 0) > VERSION or about.get("map") not in TENSORS:
        raise ValueError(
            f"{path} holds a {about.get('map')} of format {about.get('version')}, but this version of sdot reads "
            f"{', '.join(TENSORS)} up to format {VERSION}; update sdot."
        )
    needed = set(TENSORS[about["map"]])
    if about["map"] == "PiecewiseLinearMap":
        needed |= {f"rule.{name}" for name in RULES[about["extension"]["weights"]].names}
    if not needed <= tensors.keys():
        raise ValueError(f"{path} is damaged: it lacks {', '.join(sorted(needed - tensors.keys()))}; write it again.")
    return tensors, about
