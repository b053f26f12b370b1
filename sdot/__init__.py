"""Semi-discrete optimal transport for PyTorch: measures in, certified map out."""

from . import kernels, plot, semidual
from ._conflict import warn_of_other_distribution
from .certificate import Certificate, certify
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
    "Certificate",
    "ConvergenceWarning",
    "DiscreteMeasure",
    "FileInfo",
    "Gaussian",
    "Newton",
    "PushForward",
    "SimplicialComplex",
    "Solution",
    "Solver",
    "Source",
    "State",
    "UniformBall",
    "UniformCube",
    "backends",
    "certify",
    "dihedral_angles",
    "info",
    "iterate",
    "kernels",
    "load",
    "plot",
    "rips_complex",
    "save",
    "semidual",
    "solve",
]
warn_of_other_distribution()
