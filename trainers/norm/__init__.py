"""How student and teacher normalize: schemes as data, batch norm over devices, conversion, the teacher."""
