"""All stages of a run file in one go: runs what is not done, skips what is.

Reading order: ``stages`` (their table), ``run`` (the chain itself), ``describe`` (what a dry run
prints), ``report`` (the page), ``pilot`` (a run on a sample), ``headline`` (the numbers a job
prints last).
"""
