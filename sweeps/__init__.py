"""Sweeps: from what a user asks for, to runs, to what is seen of them.

- `request`: what is asked for: tables or a grid, a scale, seeds, overrides.
- `plan`: the trainings and evaluations behind a request; `grid`, `titles`, `checks`, `work` are its parts.
- `cost`: an estimate before anything runs.
- `profiles`: the scales. `tables`: the paper's tables as declarations.
- `run`: training and evaluating, on this machine or on a cluster.
- `view`: progress, status and reports.
- `exchange`: networks to and from other programs.
"""
