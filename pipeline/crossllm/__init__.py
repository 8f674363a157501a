"""One import name for the four folders: `crossllm.cache`, `crossllm.embed`, `crossllm.model`, `crossllm.pipeline`.

The folders lie at the top of the repository; pyproject.toml maps each to its name (docs/design/0009).
"""
