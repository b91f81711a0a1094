"""The evaluation protocols: linear, finetuning, kNN, retrieval, low-shot, and the registry that names them."""
