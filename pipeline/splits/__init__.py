"""Which pairs are tested together, and what may be trained on then: every kind of split, and the file that keeps one.

From outside: `choose_folds` of `choosing`, `Folds` of `folds`, `cut_parts` of `parts`, `SplitOptions` of `options`.
"""
