"""Typed specifications of training runs.

- ``kinds``: the values that a field accepts, from its type; describes and parses them.
- ``section``: the base class of every section, with validation errors of one line; the hash behind keys.
- ``sections``: the sections that all methods share. ``method``: bases of the methods' own sections.
- ``run``: :class:`RunSpec`, which is made of sections, and its key.
- ``build``: makes a specification from a method, a scheme and flat fields.
- ``labels``: display names of schemes and runs, and a run's parameters and tags in the store.
- ``fields``: lists the fields of a method and parses ``--set FIELD=VALUE``.

Nothing here imports torch.
"""
