"""Search over fields of a run.

- `space`: ranges and lists of values, and the points to try.
- `objective`: the metric to improve, never one of test images.
- `study`: Optuna's study of a search.
- `outcome`: the best points, and how much each field matters.
- `picture`: the metric against each field.
"""
