"""Views of sweeps and runs.

- `terminal`: a running sweep. `watch`: a sweep that another process runs.
- `gauges`: a running sweep's metrics for Prometheus.
- `status`: `eman status` and `eman runs`. `doctor`, `fields`: the commands of the same names.
- `report`: a sweep as a page, with its `configuration` and `provenance`.
- `ui`: MLflow's server. `links`: addresses of its pages.
"""
