"""Run sweeps.

- `sweep`: run a whole sweep. `launch`: run what is missing (`todo`) with the right resources (`options`).
- `tuning`: jobs as trials of Ray Tune. `searcher`: points that Optuna chooses. `listener`: what
  trials need from the launching process.
- `trials`: functions of trials in Ray's processes.
- `train`, `evaluate`: carry out one job. `jobs`, `events`, `state`: jobs, their events, and the state of a sweep.
- `publish`: tables and figures in the store. `failures`: reasons of failures. `interrupt`: signals.
- `foreground`: one run in this process. `submit`: a sweep as a Ray job.
"""
