"""Simplicial complexes on clouds of points: which of them may be blended."""

from .angles import dihedral_angles
from .complex import SimplicialComplex
from .rips import rips_complex

__all__ = ["SimplicialComplex", "dihedral_angles", "rips_complex"]
