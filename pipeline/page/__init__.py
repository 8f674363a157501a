"""One page of HTML from finished runs: `crossllm report`.

From outside: `write_report` of `writing`.
"""
