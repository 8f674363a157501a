"""Numbers from predictions alone: metrics with intervals, baselines that see no sequence, the printed table.

From outside: `summarise` and `Scored` of `metrics`, `BASELINES` of `baselines`, `table` of `table`.
"""
