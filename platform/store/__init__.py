"""The MLflow store.

- `store`: the store to read and to write; `connection`: opening, reading, waiting.
- `records`: what is known of a run, and its state; `sqlite`: reading a SQLite file without MLflow.
- `claims`: who is running a run; `writer`: writing to one run; `spool`: entries kept while the store is away.
- `client`: MLflow's client and errors; `provenance`: what produced a result.
- `copy`: copying to another store; `export`: Parquet files.
"""
