"""Files on disk: the system calls that change a cache (`fsio`), and reading what others wrote without trusting it.

The bottom floor, imported by everything above it; it knows errors and nothing else of ours.
"""
