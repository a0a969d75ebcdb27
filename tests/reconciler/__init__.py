"""The reconciler: queue, group commit, and controllers against a real store and a scripted machine."""
