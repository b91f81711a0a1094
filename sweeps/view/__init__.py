"""Looking at sweeps.

`terminal` shows one while it runs, `watch` one that another process runs. `status`, `runs` and `doctor` list what there
is, `fields` what `--set` takes. `report` writes a sweep as a page (`configuration`, `provenance`); `ui` starts MLflow's
server, `links` are its pages; `bar` is that of `eman train`.
"""
