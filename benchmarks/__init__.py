"""What the program costs, measured side by side in one run and printed as ratios.

Owns the measurements and their table; refuses to be a test: no number here fails anything, because a number from a
noisy machine is a fact about that machine. Each measurement is a module with one `measure(settings)` that yields rows.
"""
