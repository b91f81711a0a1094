"""The MLflow store.

- `store`: the public interface. `connection`: opening, reading, retries.
- `records`: a run and its state. `sqlite`: reading a SQLite file without MLflow.
- `claims`: exclusive ownership of runs. `writer`: writing to one run. `spool`: entries kept while the store is down.
- `client`: MLflow's client and errors. `provenance`: revision and versions behind a result.
- `copy`: copying to another store.
"""
