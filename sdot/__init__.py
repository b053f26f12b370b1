"""Semi-discrete optimal transport for PyTorch: measures in, certified map out."""

from . import kernels, plot, semidual
from ._conflict import warn_of_other_distribution
from .barycentric import barycentric_coordinates, project_to_simplex
from .budget import Budget, estimate_budget
from .cells import Cells, UnresolvedCellsWarning, estimate_cells
from .certificate import Certificate, certify
from .extension import Parts, PiecewiseLinearMap
from .kernels import backends
from .maps import BrenierMap
from .measures import DiscreteMeasure, Gaussian, PushForward, Source, UniformBall, UniformCube
from .serialization import FileInfo, info, load, save
from .simplicial import SimplicialComplex, dihedral_angles, rips_complex
from .solution import ConvergenceWarning, Solution, iterate, solve
from .solvers import Adam, Averaged, Newton, Solver, State

__version__ = "0.1.0"
__all__ = [
    "Adam",
    "Averaged",
    "BrenierMap",
    "Budget",
    "Cells",
    "Certificate",
    "ConvergenceWarning",
    "DiscreteMeasure",
    "FileInfo",
    "Gaussian",
    "Newton",
    "Parts",
    "PiecewiseLinearMap",
    "PushForward",
    "SimplicialComplex",
    "Solution",
    "Solver",
    "Source",
    "State",
    "UniformBall",
    "UniformCube",
    "UnresolvedCellsWarning",
    "backends",
    "barycentric_coordinates",
    "certify",
    "dihedral_angles",
    "estimate_budget",
    "estimate_cells",
    "info",
    "iterate",
    "kernels",
    "load",
    "plot",
    "project_to_simplex",
    "rips_complex",
    "save",
    "semidual",
    "solve",
]
warn_of_other_distribution()
