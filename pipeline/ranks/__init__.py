"""Several processes that train one model together: what they send each other, and how one knows that another is gone.

`training` takes `Ranks` and `ALONE`; the command line `launched` and `together`.
"""
