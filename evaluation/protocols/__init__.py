"""Declarations of evaluation protocols, without torch.

- `protocol`: the declaration of a protocol: fields, checks, and the module that computes it. `sizes`: sizes for checks.
- `linear`, `finetune`, `knn`, `retrieval`, `lowshot`: one declaration each.
- `registry`: all of them by name, and how to add one.
- `spec`: `EvalSpec`, the specification of one evaluation, and its key.
- `groups`: evaluations that are computed together, and their titles.
"""
