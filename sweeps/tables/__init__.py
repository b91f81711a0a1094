"""The paper's tables as declarations, one file each."""
