"""One file a model: its tokens, its published tensor names, its rows.  `registry` is the table of all of them.

From outside: `find_encoder` and `ENCODERS` of `registry`.  No encoder imports another; what they share stands in
`language_model` and `published_forms`.
"""
