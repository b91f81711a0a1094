"""The computation of the protocols, with torch: `linear`, `finetune`, `knn`, `retrieval`, `lowshot`.

Each module implements the protocol of the same name in `eman.evaluation.protocols`, and is imported when an evaluation
runs. `linear` and `finetune` share `labelled` (label sets and averages over them) and `cropping` (random views).
"""
