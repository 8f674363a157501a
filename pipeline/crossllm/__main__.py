"""`python -m crossllm` is the program `crossllm`."""

from crossllm.pipeline.main import main

main()
