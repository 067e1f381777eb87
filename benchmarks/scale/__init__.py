"""A simulation of many servers, fed with what was measured of one. A room of its own, because it
measures nothing and shares only the tables and the files with the other benchmarks.
"""
