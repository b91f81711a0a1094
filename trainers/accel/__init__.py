"""CPU kernels behind one seam."""
