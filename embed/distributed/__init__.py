"""`embed run --dask`: what is pending is cut into batches, and the workers of a Dask cluster encode and store them.

`driver` runs in the command, `worker` in each worker; `batches` is what goes from one to the other.
"""
