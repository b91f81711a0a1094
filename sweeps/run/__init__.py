"""Carrying out sweeps.

`jobs` and `events` travel between the process that launches and Ray's processes; `state` turns events into the state
of a sweep. `sweep` runs a sweep: `launch` decides what is run next (`todo`) with which resources (`options`),
`tuning` and `follow` hand it to Ray Tune, `publish` writes tables to the store. `trials` is what runs in Ray's
processes; it calls `train` and `evaluate`. `foreground` runs one training or evaluation here, `submit` a sweep as a Ray
job.
"""
