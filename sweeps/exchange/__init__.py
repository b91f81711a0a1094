"""Networks in and out: import, export, serving, prediction."""
