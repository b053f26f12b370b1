"""One file per algorithm."""

from .adam import Adam
from .averaged import Averaged
from .base import Solver, State
from .newton import Newton

__all__ = ["Adam", "Averaged", "Newton", "Solver", "State"]
