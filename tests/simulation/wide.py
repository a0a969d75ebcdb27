"""What a wide life has beside the others: policies for a busy machine, secrets, prices, and what befalls such jobs.

All of it is drawn from streams of its own, so that a life that isn't wide is the same with it as without.
"""

from __future__ import annotations

from .dice import Dice

# This share of the lives is wide, and of their jobs this share is one of these.
WIDE = 0.5
WIDE_JOBS = 0.8
# What every controller finds in its environment that was started from a shell that has it.
SECRET = {"TOKEN": "a value"}

# With the greatest chance each time that it could strike, as all faults.
FAULTS = {
    "another home": 1.0,
    "foreign training": 0.8,
    "setup fails": 0.2,
    "start fails": 0.2,
    "out of memory": 0.2,
    "killed at birth": 0.1,
    "slow to leave": 1.0,
    "dies unseen": 0.8,
    "launcher broken": 0.5,
    "wiped by hand": 1.0,
    "cloud out of reach": 0.8,
    "no capacity ever": 0.5,
    "forgotten early": 1.0,
    "copied for another": 1.0,
    "a controller each": 0.5,
    "clean-up refused": 0.3,
    "host away": 1.0,
}


def is_wide(dice: Dice) -> bool:
    return dice.between("wide", 0, 1) < WIDE


GRACE = "checkpoint: {grace: 5s}\n"
BUSY = "instance: {busy: %s}\n"
PRICED = "instance: {hourly_rate: %s USD, busy: %s}\n"
LOCAL = (
    BUSY % "wait" + GRACE,
    BUSY % "replace" + GRACE + "retry: {interruptions: 0}\n",
    BUSY % "replace" + GRACE + "limits: {duration: 45s}\n",
    BUSY % "share" + GRACE + "retry: {failures: 1}\nlimits: {idle: 20s}\n",
    BUSY % "wait" + GRACE + "limits: {idle: 30s}\n",
    PRICED % ("3.60", "wait") + GRACE + "limits: {duration: 40s}\n",
    PRICED % ("3.60", "wait") + GRACE + "cost: {cap: 0.03 USD, warn_at: [10%, 60%]}\n",
    PRICED % ("36", "wait") + GRACE + "cost: {cap: 0.50 USD}\n",
    PRICED % ("900", "replace") + GRACE,
    BUSY % "wait" + "checkpoint: {grace: 5s, resume: never}\nretry: {interruptions: 0}\n",
    "checkpoint: {grace: 5s, every: 3s, deadline: 8s, on_deadline: fail}\n" + BUSY % "wait",
    BUSY % "wait" + GRACE + "limits: {hang: 20s}\n",
    BUSY % "replace" + "checkpoint: {grace: 5s, every: 3s, deadline: 10s, on_deadline: save}\n",
    "secrets: [TOKEN]\nretry: {interruptions: 0}\n" + BUSY % "wait" + GRACE,
    BUSY % "share" + GRACE + "limits: {hang: 15s, duration: 90s}\n",
    "secrets: [TOKEN]\n" + PRICED % ("3.60", "wait") + GRACE + "cost: {cap: 0.05 USD}\n",
    "retry: {interruptions: 0}\n" + BUSY % "wait" + GRACE,
)
LOCAL_GROUPS = (
    BUSY % "share" + GRACE + "group: {max_parallel: 1}\n",
    BUSY % "refuse" + GRACE,
    PRICED % ("3.60", "share") + GRACE + "group: {cap: 0.12 USD, max_parallel: 2}\n",
    PRICED % ("3.60", "replace") + GRACE + "group: {cap: 0.12 USD}\n",
)

INSTANCE = "instance: {platform: aws, type: %s, region: us-east-1, capacity: %s}\n"
UPLOAD = "checkpoint: {upload: s3://bucket/ckpt/, grace: 5s%s}\n"
KINDS = (("g5.xlarge", "on-demand"), ("[g5.xlarge, g4dn.xlarge]", "spot-then-on-demand"))
RENTED = tuple(
    INSTANCE % kind + UPLOAD % resume + more
    for kind in KINDS
    for resume, more in (
        ("", "cost: {cap: none}\n"),
        (", every: 3s, deadline: 12s, on_deadline: fail", "cost: {cap: none}\n"),
        ("", "cost: {cap: 1 USD}\nsecrets: [TOKEN]\n"),
        (", resume: never", "cost: {cap: 1.50 USD}\n"),
        ("", "cost: {cap: 1 USD, warn_at: [5%, 20%], max_hourly: 3 USD}\n"),
        ("", "cost: {cap: 0.50 USD}\nretry: {interruptions: 0}\n"),
        ("", "cost: {cap: 0.40 USD}\n"),
    )
)
RENTED_GROUPS = tuple(
    INSTANCE % kind + UPLOAD % "" + "cost: {cap: none}\n" + group
    for kind in KINDS
    for group in ("group: {max_parallel: 1}\n", "group: {cap: 1.50 USD, max_parallel: 2}\n", "group: {cap: 1 USD}\n")
)
