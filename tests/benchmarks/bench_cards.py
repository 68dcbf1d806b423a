"""What each kernel takes on each card, read off the code that Triton and NVIDIA's assembler make for it.

usage: python tests/benchmarks/bench_cards.py [--shape "overnight, 8 experts"]

It needs Triton and no GPU. Printed are registers of a thread, and bytes of its stack where there are any.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import defaultdict

from compiled_kernels import SHAPES, SHARED_KIB, compiled_kernels, usual_dtype


def main() -> None:
    """Print kernels by cards as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default=next(iter(SHAPES)))
    args = parser.parse_args()

    cells: dict[str, dict[int, str]] = defaultdict(dict)
    shared_kib: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRITON_CACHE_DIR"] = folder
        for capability in SHARED_KIB:
            kernels = compiled_kernels(args.shape, capability, usual_dtype(capability))
            shared_kib[capability] = max(kernel.shared_bytes for kernel in kernels) / 1024
            # Of several variants the largest is shown.
            for kernel in sorted(kernels, key=lambda kernel: (kernel.stack_bytes, kernel.registers)):
                stack = f", {kernel.stack_bytes} B" if kernel.stack_bytes else ""
                cells[kernel.name][capability] = f"{kernel.registers}{stack}"

    print(f"| kernel | {' | '.join(f'sm_{capability}' for capability in SHARED_KIB)} |")
    print("|---" * (1 + len(SHARED_KIB)) + "|")
    rows = {name.removeprefix("_").removesuffix("_kernel"): row for name, row in cells.items()}
    for name, row in sorted(rows.items()):
        print(f"| {name} | {' | '.join(row.get(capability, '') for capability in SHARED_KIB)} |")
    most = [f"{shared_kib[capability]:g} of {limit}" for capability, limit in SHARED_KIB.items()]
    print(f"| most shared memory, KiB | {' | '.join(most)} |")


if __name__ == "__main__":
    main()
