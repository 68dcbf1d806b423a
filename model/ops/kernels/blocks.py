"""Sizes of the blocks that several kernels work in."""

import triton

TOKENS = 4
"""Tokens, each a row of a matrix, of one program."""


def pow2(number: int) -> int:
    """Return the smallest power of two that is not below a number: Triton's blocks have no other sizes."""
    return int(triton.next_power_of_2(number))
