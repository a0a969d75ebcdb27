"""Checkpoints as the agent sees them (stub until the watch is in)."""
from __future__ import annotations

class RestoreFailed(Exception):
    pass

class Keeper:
    def __init__(self, spec, event):
        self.spec = spec
        self.helper = None
        self.noticed_at = self.durable_at = self.complete_at = self.newest_path = None
        self.seen = 0
        self.last_copy = 0.0
        self.settled = True
    def prepare(self, now): 
        import os
        os.makedirs(self.spec.checkpoint.dir, exist_ok=True)
        return ""
    def poll(self, now, keep, still_writing): return False
    def ask(self, reason, deadline, now): pass
    def stop(self, now): pass
    def state(self): return {"seen":0,"durable":0,"invalid":0,"newest":None,"newest_durable":None}
