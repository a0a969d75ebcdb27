"""The user's code before it runs: project root, ignore rules, frozen snapshots, checks of the script, and the
recipe of its environment.

Owns what a job's files are, byte for byte, and what must be prepared around them. Refuses to run any of it: a
recipe is a list of argvs for somebody else, a check reads and compiles, and git is only read from disk.
"""
