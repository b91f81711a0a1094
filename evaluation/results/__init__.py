"""From stored runs to tables: cells and values, significance, figures, and the paper's numbers."""
