"""The MLflow store: what runs there are, writing them, copying a store, and a spool for while it is away."""
