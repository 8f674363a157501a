"""What a finished run leaves to be read: predictions, `metrics.json` and plots.

From outside: `write_results` of `results`.
"""
