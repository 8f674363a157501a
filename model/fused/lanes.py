"""What a Mamba has beside its scan, sixteen lanes at a time (`crossllm.model.scan.simd`), and a small product."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from crossllm.model.scan.simd import LANES, LOG2E, WIDTH, exp2, fma, load, refuse_others, splat, spread, store

INLINED = {"simd": "f2b449f9"}
"""As in `crossllm.model.scan.numba_kernels`."""
ROWS = 4
"""Rows of a product that are summed at once: with two registers of columns, as many sums as hide a step's delay."""
_SERIES = (2 / 13, 2 / 11, 2 / 9, 2 / 7, 2 / 5, 2 / 3, 2.0)
"""ln(1 + e) = 2 (s + s³/3 + s⁵/5 + …), s = e/(2 + e) ≤ 1/3: what is left out is below 3e-8 of it."""


def _chosen(predicate: str) -> Any:
    @intrinsic
    def choose(typing_context: Any, left: Any, right: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return builder.select(builder.fcmp_unordered(predicate, *arguments), *arguments)

        return LANES(LANES, LANES), generate

    return choose


smaller, larger = _chosen("<"), _chosen(">")
"""Lane by lane; where the first is NaN, NaN."""


@intrinsic
def at(typing_context: Any, array: Any, index: Any) -> Any:
    """`array[index]` in every lane; no bounds are checked, and an index never counts from the end."""
    refuse_others(array)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return splat(builder, builder.load(builder.gep(data, [arguments[1]])))

    return LANES(array, types.intp), generate


@intrinsic
def floats(typing_context: Any, address: Any, count: Any) -> Any:
    """The `count` float32 values at an address, as a flat array that owns nothing."""
    kind = types.Array(types.float32, 1, "C")

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        array = context.make_array(kind)(context, builder)
        data = builder.inttoptr(arguments[0], ir.FloatType().as_pointer())
        four = context.get_constant(types.intp, 4)
        shape, strides = [arguments[1]], [four]
        populate_array(array, data=data, shape=shape, strides=strides, itemsize=four, meminfo=None)
        return array._getvalue()

    return kind(types.intp, types.intp), generate


@njit(error_model="numpy")
def sigmoid(x):
    """1/(1 + e^−x)."""
    one = spread(1.0)
    return one / (one + exp2(smaller(x * spread(-LOG2E), spread(126.0))))


@njit(error_model="numpy")
def silu_slope(x, gate):
    """Of x σ(x), where `gate` is σ(x)."""
    one = spread(1.0)
    return gate * fma(x, one - gate, one)


@njit(error_model="numpy")
def softplus(x):
    """ln(1 + e^x)."""
    zero, two = spread(0.0), spread(2.0)
    e = exp2(larger(x, zero - x) * spread(-LOG2E))
    s = e / (two + e)
    square = s * s
    rise = spread(_SERIES[0])
    for coefficient in _SERIES[1:]:
        rise = fma(rise, square, spread(coefficient))
    return fma(rise, s, larger(x, zero))


@njit(error_model="numpy")
def product(left, right, result, sizes, added):
    """out[i, :columns] = Σ_k a[i, k] · b[k, :columns], or that much more where `added`.

    Args:
        left: a flat; where a[0, 0] stands; from a[i, k] to a[i + 1, k], and to a[i, k + 1].
        right: b flat; where it begins; from row to row.
        result: out, likewise.
        sizes: rows, values of k, columns: whole registers.
        added: whether out holds something already.
    """
    a, first, down, along = left
    b, b_first, b_row = right
    out, out_first, out_row = result
    rows, inner, columns = sizes
    for column in range(0, columns, 2 * WIDTH):
        twice = column + WIDTH < columns
        i = 0
        while i < rows:
            start, place = first + i * down, out_first + i * out_row + column
            if twice and i + ROWS <= rows:
                _four((a, start, down, along), (b, b_first + column, b_row), (out, place, out_row), inner, added)
                i += ROWS
                continue
            for c in range(0, 2 * WIDTH if twice else WIDTH, WIDTH):
                sum_ = load(out, place + c) if added else spread(0.0)
                for k in range(inner):
                    sum_ = fma(at(a, start + k * along), load(b, b_first + column + c + k * b_row), sum_)
                store(out, place + c, sum_)
            i += 1


@njit(error_model="numpy")
def _four(left, right, result, inner, added):
    """`ROWS` rows of two registers."""
    a, first, down, along = left
    b, b_first, b_row = right
    out, place, row = result
    a0 = b0 = c0 = d0 = a1 = b1 = c1 = d1 = spread(0.0)
    for k in range(inner):
        low, high = load(b, b_first + k * b_row), load(b, b_first + WIDTH + k * b_row)
        x = at(a, first + k * along)
        a0, a1 = fma(x, low, a0), fma(x, high, a1)
        x = at(a, first + down + k * along)
        b0, b1 = fma(x, low, b0), fma(x, high, b1)
        x = at(a, first + 2 * down + k * along)
        c0, c1 = fma(x, low, c0), fma(x, high, c1)
        x = at(a, first + 3 * down + k * along)
        d0, d1 = fma(x, low, d0), fma(x, high, d1)
    if added:
        a0, a1 = a0 + load(out, place), a1 + load(out, place + WIDTH)
        b0, b1 = b0 + load(out, place + row), b1 + load(out, place + row + WIDTH)
        c0, c1 = c0 + load(out, place + 2 * row), c1 + load(out, place + 2 * row + WIDTH)
        d0, d1 = d0 + load(out, place + 3 * row), d1 + load(out, place + 3 * row + WIDTH)
    store(out, place, a0)
    store(out, place + WIDTH, a1)
    store(out, place + row, b0)
    store(out, place + row + WIDTH, b1)
    store(out, place + 2 * row, c0)
    store(out, place + 2 * row + WIDTH, c1)
    store(out, place + 3 * row, d0)
    store(out, place + 3 * row + WIDTH, d1)
