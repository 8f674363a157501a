"""A whole Mamba as two kernels on the CPU, forward and backward: what a step on few tokens costs is calls, not sums.

Imported from `crossllm.model.bimamba` alone, and held to the plain operations there by a test.
"""
