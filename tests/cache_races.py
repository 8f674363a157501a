"""Works of several processes."""

WORKS: dict = {}
