"""The protocols' computation, with torch: `linear`, `finetune`, `knn`, `retrieval`, `lowshot`.

Each file computes one protocol, declared in the file of the same name in `eman.evaluation.protocols`, which imports it
only when an evaluation runs. `cropping` makes the random views of training images that two of them share.
"""
