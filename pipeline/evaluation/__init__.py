"""Numbers from predictions alone: metrics with intervals, baselines that see no sequence, the printed table.

Formulas: `classification`, `regression`.  From outside: `summarise` and `Scored` of `metrics`, `BASELINES` of
`baselines`, `table` of `table`.
"""
