"""The computation of the protocols, with torch: `linear`, `finetune`, `knn`, `retrieval`, `lowshot`.

Each module implements the protocol of the same name in `eman.evaluation.protocols`, and is imported when an evaluation
runs. `cropping` makes random views of training images for `linear` and `finetune`.
"""
