"""The arithmetic around points packed into float16."""

import pytest

from sdot.kernels import _halves


@pytest.mark.parametrize(
    ("d", "parts", "columns"), [(1, 1, 16), (17, 1, 32), (64, 1, 64), (5, 3, 16), (64, 3, 192), (130, 1, 192)]
)
def test_packed_points_have_widths_that_kernels_can_hold(d, parts, columns):
    assert _halves.width(d, parts) == columns
    assert columns % _halves.slab(columns) == 0
