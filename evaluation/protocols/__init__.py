"""What can be asked of a trained network, without torch.

- `protocol`: what a protocol declares: its fields, its checks, what computes it.
- `sizes`: what a check must know of the data.
- `linear`, `finetune`, `knn`, `retrieval`, `lowshot`: one declaration each.
- `registry`: all of them by name, and how to add one.
- `spec`: `EvalSpec`, the specification of one evaluation, and its key.
- `groups`: evaluations that are carried out together, and their titles.
"""
