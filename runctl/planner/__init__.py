"""Every decision of the program, as pure functions over values.

Owns the vocabulary of a job's life (`Record`, `Observed`, `Plan`) and the policy that leads from one to the next:
`plan(record, observed, now)`. No external calls or any I/O are done here: no clock is read, nothing is random
(jitter is hashed from the job's uid), so that a plan can be printed, linted, simulated and compared with a golden text.
"""
