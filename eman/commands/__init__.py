"""The commands, one file per topic.

- `sweep`: sweep. `decide`: decide. `single`: train, evaluate.
- `planning`: plan, fields, schemes, profiles.
- `results`: table, figure, status, report, ui, doctor. `claims`: claims.
- `runs`: list, show, register and remove runs.
- `networks`: import, export, predict. `data`: data sets. `store`: the MLflow store and unused files.
- `jobs`: submit, jobs, logs, stop.
- `printing`: write tables to the terminal or a file.
"""
