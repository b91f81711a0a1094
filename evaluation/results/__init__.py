"""From stored runs to tables and figures, without torch and Ray.

- `cells`: tables as data: the results behind each cell.
- `values`: from the store to the values of cells.
- `significance`: intervals, paired differences, rank correlation.
- `remarks`: the lines under a table.
- `render`, `long`: tables as text, Markdown, LaTeX, CSV, Parquet.
- `paper`: the paper's published numbers.
- `figures`: Figure 3.
"""
