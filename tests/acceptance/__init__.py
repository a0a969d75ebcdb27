"""Each row of the requirements, shown on the real program: real command line, real agent, real processes."""
