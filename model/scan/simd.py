"""Sixteen float32 lanes as one Numba value: SIMD that does not hang on what LLVM's vectoriser finds out.

LLVM vectorises a loop only after it has proved, or checks at run time, that no two arrays overlap; the kernels of the
scan have too many for that and fell back to one lane.  A `Lanes` value is LLVM's `<16 x float>`: one register with
AVX-512, two with AVX2, four with NEON.  It lives in registers; `load` and `store` move it from and to a C-contiguous
one-dimensional float32 array, at any alignment.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic, models, overload, register_model

WIDTH = 16
"""Lanes of a value."""

_FLOATS = ir.VectorType(ir.FloatType(), WIDTH)
_INTS = ir.VectorType(ir.IntType(32), WIDTH)
_CONTRACT = ("contract",)  # a product and a sum may become one fused step; nothing is reordered

LOG2E = 1.4426950408889634
LN2 = 0.6931471805599453
SMALLEST = -126.0
"""exp2 of less is not a normal float32; `exp2` gives 2^-126 there, which is nothing beside a state."""
_FMULADD = f"llvm.fmuladd.v{WIDTH}f32"


class _Split(NamedTuple):
    """How `exp2` takes x apart: x = n + j/2^bits + r with n and j whole and |r| ≤ 1/2^(bits + 1)."""

    bits: int
    """0: j is 0; 4: 2^(j/16) comes out of a table of one register."""
    fitted: tuple[float, ...]
    """(2^r − 1)/r, highest power first: weighted least squares, until the relative error of 2^r (2e-9) was level."""


PLAIN = _Split(0, (1.5353362e-4, 1.3398874e-3, 9.6184369e-3, 5.5503324e-2, 0.24022648, 0.69314718))
TABLE = _Split(4, (5.5502135e-2, 0.24023429, 0.69314718))
"""Four products where the other has six; for AVX-512, which can look up a register's lanes in another."""


class LanesType(types.Type):
    """Numba's type of a `<16 x float>`."""

    def __init__(self) -> None:
        super().__init__(name="Lanes16")


LANES = LanesType()


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)


def _constant(value: float) -> Any:
    return ir.Constant(_FLOATS, [value] * WIDTH)


def _address(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _FLOATS.as_pointer())


def refuse_others(array: Any) -> None:
    """Raise while a kernel is compiled: bytes of another type or layout would be taken for float32 lanes."""
    if not (isinstance(array, types.Array) and (array.dtype, array.ndim, array.layout) == (types.float32, 1, "C")):
        raise TypingError(f"lanes lie in a C-contiguous one-dimensional float32 array; got {array}")


@intrinsic
def load(typing_context: Any, array: Any, index: Any) -> Any:
    """Lanes of `array[index : index + 16]`; no bounds are checked."""
    refuse_others(array)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = builder.load(_address(context, builder, signature.args[0], *arguments))
        value.align = 4
        return value

    return LANES(array, types.intp), generate


@intrinsic
def store(typing_context: Any, array: Any, index: Any, lanes: Any) -> Any:
    """Write lanes to `array[index : index + 16]`; no bounds are checked."""
    refuse_others(array)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, index, lanes = arguments
        builder.store(lanes, _address(context, builder, signature.args[0], array, index)).align = 4
        return context.get_dummy_value()

    return types.void(array, types.intp, LANES), generate


@intrinsic
def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of `array[index]`, soon to be read or written; an index beyond the array does no harm."""
    refuse_others(array)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte, how = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, how, how, how])
        address = builder.bitcast(_address(context, builder, signature.args[0], *arguments), byte)
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch")
        builder.call(function, [address, how(0), how(3), how(1)])  # to read, into the nearest cache, data
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


def splat(builder: Any, value: Any) -> Any:
    """LLVM's value of one float in every lane."""
    single = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(single, single, ir.Constant(_INTS, [0] * WIDTH))


@intrinsic
def spread(typing_context: Any, value: Any) -> Any:
    """One float32 in every lane."""
    return LANES(types.float32), lambda _context, builder, _signature, arguments: splat(builder, arguments[0])


@intrinsic
def fma(typing_context: Any, left: Any, right: Any, added: Any) -> Any:
    """One lane after the other left · right + added, the product fused with the sum where the machine can."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, _FMULADD), arguments)

    return LANES(LANES, LANES, LANES), generate


@intrinsic
def total(typing_context: Any, lanes: Any) -> Any:
    """Sum of the lanes, halves first: always in the same order."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        value, width = arguments[0], WIDTH
        while width > 1:
            width //= 2
            mask = ir.VectorType(ir.IntType(32), width)
            low, high = (
                builder.shuffle_vector(value, value, ir.Constant(mask, list(range(first, first + width))))
                for first in (0, width)
            )
            value = builder.fadd(low, high)
        return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    return types.float32(LANES), generate


def _emit_exp2(builder: Any, x: Any, split: _Split) -> Any:
    def call(name: str, *arguments: Any) -> Any:
        kind = ir.FunctionType(arguments[0].type, [argument.type for argument in arguments])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)

    # A float32 of this size holds no bits below 2^-bits: what is added to it is rounded, and lies in its lowest bits.
    size = _constant(1.5 * 2.0 ** (23 - split.bits))
    x = builder.select(builder.fcmp_ordered("<", x, _constant(SMALLEST)), _constant(SMALLEST), x)
    rounded = builder.fadd(x, size)
    r = builder.fsub(x, builder.fsub(rounded, size))
    rise = _constant(split.fitted[0])
    for coefficient in split.fitted[1:]:
        rise = call(_FMULADD, rise, r, _constant(coefficient))
    parts, below = builder.bitcast(rounded, _INTS), 23 - split.bits
    raised = builder.shl(parts, ir.Constant(_INTS, [below] * WIDTH))  # n in the exponent's bits, j in those below
    if not split.bits:
        power = builder.bitcast(call(_FMULADD, rise, r, _constant(1.0)), _INTS)
        return builder.bitcast(builder.add(power, raised), _FLOATS)
    steps = np.arange(WIDTH)
    table = np.exp2(steps / WIDTH).astype(np.float32).view(np.int32) - (steps << below)  # less the j that is added
    power = call("llvm.x86.avx512.permvar.si.512", ir.Constant(_INTS, table.tolist()), parts)
    power = builder.bitcast(builder.add(power, raised), _FLOATS)
    return call(_FMULADD, power, builder.fmul(rise, r), power)


def make_exp2(split: _Split | None = None) -> Any:
    """An `exp2` by one split; None: by the faster that the machine compiled for can run."""

    @intrinsic
    def exp2(typing_context: Any, lanes: Any) -> Any:
        """2^x for x ≤ 127, within 1 ulp; below `SMALLEST` it is 2^-126; NaN stays NaN."""

        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            features = context.codegen().magic_tuple()[2]
            return _emit_exp2(builder, arguments[0], split or (TABLE if "+avx512f" in features else PLAIN))

        return LANES(LANES), generate

    return exp2


exp2 = make_exp2()


def _operation(emit: str) -> Any:
    @intrinsic
    def apply(typing_context: Any, left: Any, right: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return getattr(builder, emit)(*arguments, flags=_CONTRACT)

        return LANES(LANES, LANES), generate

    return apply


def _define(symbol: Callable[..., Any], emit: str) -> None:
    apply = _operation(emit)

    @overload(symbol, inline="never")
    def choose(left: Any, right: Any) -> Any:
        if isinstance(left, LanesType) and isinstance(right, LanesType):

            def implement(left: Any, right: Any) -> Any:
                return apply(left, right)

            return implement
        return None


_define(operator.add, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")
_define(operator.truediv, "fdiv")


@njit(error_model="numpy")
def aligned(count):
    """An uninitialised float32 array that starts at a multiple of 64 bytes: a register never spans two cache lines."""
    raw = np.empty(count + WIDTH, np.float32)
    first = (64 - raw.ctypes.data % 64) % 64 // 4
    return raw[first : first + count]
