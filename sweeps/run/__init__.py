"""Carrying out a sweep: trials on Ray, launching, jobs on a cluster, one run in the foreground."""
