"""Data sets: by name, in memory, in folders and shards; splits, label sets and the order of a stream."""
