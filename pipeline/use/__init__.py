"""What is done with a finished run: it is loaded with all that its input must be, and gives scores.

From outside: `load_run` of `trained_run`, which `crossllm.pipeline` gives too.
"""
