"""Data sets.

Named and checked without torch: ``names`` (what a name may be), ``catalog`` (built-in sets, their sizes, loading),
``layout`` (folders of images).
What a set is: ``splits``; in memory (``memory``), or in files and shards (``folders``, ``stored``, ``decode``).
Which samples: ``label_sets``; in which order: ``order``; read ahead for training: ``loader``.
Parquet shards: ``shards`` (read), ``shard_writer``, ``shard_check``.
"""
