"""The commands, one file per topic.

- `sweep`: sweep. `single`: train, evaluate. `planning`: plan, fields.
- `results`: table, figure, status, report, ui, doctor. `runs`: list, show and remove runs.
- `networks`: import, export, predict. `data`: data sets. `store`: the MLflow store.
- `jobs`: submit, jobs, logs, stop.
- `printing`: write tables to the terminal or a file.
"""
