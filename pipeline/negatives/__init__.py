"""Negatives for a dataset of known interactions: which pairs may be drawn, the draw, and what counts say of the result.

From outside: `make_negatives` of `making`, `NegativeOptions` of `options`.
"""
