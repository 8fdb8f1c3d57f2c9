"""Floor 4: ``kproof mutate``: whether the selftests notice kernels that each break one promise.

campaign.py decides what is built and run, and what that means; kernels.py builds, runner.py runs selftests, kept.py
remembers verdicts between calls, report.py writes them down, verb.py puts all of it together.
"""
