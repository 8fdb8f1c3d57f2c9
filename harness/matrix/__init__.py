"""``kproof matrix``: selftests across kernels, judged by what is foretold of each test on each kernel.

From the outside in: verb, run (what happens), plan (what will), definition and cells (what was asked for), collect
(the tests and what is foretold of them), prepare, identity and ledger (what is known already), surprises (the
judgement), report, page and emit (what comes out), live (what one sees meanwhile).
"""
