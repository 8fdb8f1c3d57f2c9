"""Floor 4: ``kproof bisect``: which version, commit or patch broke a test, or mended it.

decide.py is the mathematics: what to judge next, how often to run, how sure the answer is. ranges.py says what a range
is; versions.py, commits.py and patches.py are its kinds. kernels.py has a revision's kernel, judge.py runs the test on
it, samples.py says what came of that. search.py goes from judgement to judgement and keeps what it knows in state.py,
proof.py takes the culprit out of the broken end, report.py writes it down, verb.py puts all of it together.
"""
