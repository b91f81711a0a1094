"""Sweeps: plan, run and view the trainings and evaluations behind tables.

- `request`: the user's request: tables, claims or a grid, a profile, seeds, overrides.
- `plan`: the trainings and evaluations behind a request. `grid`, `checks` and `work` are its parts.
- `claims`: the paper's claims about the tables, and the seeds that decide them.
- `search`: ranges and points of a search, its objective and its outcome.
- `cost`: an estimate before anything runs.
- `profiles`: the scales. `tables`: the paper's tables as declarations.
- `run`: training and evaluating, on this machine or on a cluster.
- `view`: progress, status and reports.
- `runs`: runs by key, and their removal. `garbage`: unused files and runs. `registry`: networks in MLflow's registry.
"""
