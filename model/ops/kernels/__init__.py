"""Triton kernels for what lies between the matrix products: one pass over memory each, no waiting for the host.

Matrix products stay with cuBLAS and torch's grouped product, but for those of experts where torch has no fast one
(`grouped`). Sums are taken in fp32 and rounded once, when they are stored. Each kernel is followed or preceded by its
launcher, a plain function that allocates the results and states their shapes.

In kernels "at", "to" and "of" are offsets into a tensor; masks are called "mask", "live" (rows) or "inside" (columns).
"""
