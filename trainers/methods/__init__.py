"""One file a method (FixMatch, MoCo, BYOL, supervised), and the registry that names them."""
