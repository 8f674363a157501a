"""A whole BiMamba block as two kernels on the CPU: what a step on few tokens costs is calls, not sums.

Imported from `crossllm.model.bimamba` alone, and held to the plain operations there by a test.
"""
