"""`crossllm doctor`: what is looked at, and the child process in which libraries that may crash are loaded.

From the command: `run_probes` for what needs a child, `machine` and `cache_health` for the rest.
"""
