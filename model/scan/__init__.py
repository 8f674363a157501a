"""The selective scan and the causal convolution on packed sequences: one signature, several backends.

From outside: `selective_scan` of `selective_scan`, `causal_conv` of `conv`.  `reference` is the plain torch that every
backend is held to; `numba_*` run on the CPU, `triton_*` on CUDA.
"""
