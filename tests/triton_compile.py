"""Run by a test in a process of its own: compiles every Triton kernel for an H100, which needs no GPU.

The interpreter runs what the compiler refuses, such as a name whose type changes inside a loop.
"""

from __future__ import annotations

import itertools

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from crossllm.model.scan import triton_conv, triton_scan

IN_TYPE = ("inputs", "rows", "u", "delta", "b", "c_rows", "y", "dy", "du", "ddelta", "x", "weight", "bias")
INDEX = ("first", "steps", "chunk_ends", "reach", "before")
SCALAR = {"sign": "i32", "C": "i32", "T": "i32"}
CONSTANT = {"N": 4, "FORWARD": True, "BIAS": True, "L": 16, "W": 16, "WIDTH": 4}


def main() -> None:
    kernels = [triton_scan._carry, triton_scan._pass_on, triton_scan._outputs, triton_scan._gradients,
               triton_conv._window, triton_conv._taps]  # fmt: skip
    for kernel, half, forward in itertools.product(kernels, ("*fp32", "*bf16"), (True, False)):
        names = kernel.arg_names
        if not forward and not {"FORWARD", "BIAS"} & set(names):
            continue
        values = CONSTANT | {"FORWARD": forward, "BIAS": forward}
        kinds = {name: "constexpr" if name in values else SCALAR.get(name, "*fp32") for name in names}
        kinds |= {name: half for name in names if name in IN_TYPE}
        kinds |= {name: "*i64" for name in names if name in INDEX}
        constants = {(i,): values[name] for i, name in enumerate(names) if name in values}
        done = compile(ASTSource(kernel, kinds, constants), target=GPUTarget("cuda", 90, 32))
        assert "cubin" in done.asm
        print(kernel.__name__, half, forward)


if __name__ == "__main__":
    main()
