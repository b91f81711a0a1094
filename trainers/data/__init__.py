"""Data sets.

- ``names``, ``known``, ``own``, ``catalog``, ``layout``, ``shares``: names, built-in sets and their sizes, registered
  sets, index files, folder layouts, label sets by class. No torch.
- ``splits``: the classes of data sets. ``memory``, ``maps``: sets in memory, built-in and registered ones.
- ``folders``, ``stored``, ``decode``: sets in files and shards.
- ``label_sets``: subsets and label sets. ``order``: sample order. ``loader``: reading ahead for training.
- ``shards``, ``shard_writer``: read, verify and write Parquet shards.
"""
