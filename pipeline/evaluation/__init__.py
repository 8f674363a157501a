"""Numbers from predictions alone: metrics with intervals, the printed table.

Formulas: `classification`, `regression`.  From outside: `summarise` and `Scored` of `metrics`, `table` of `table`.
"""
