"""What decides a result: specifications of runs, and their keys."""
