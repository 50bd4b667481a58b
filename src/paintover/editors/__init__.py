"""Editors: one short file per named system, and their registry.

Importing this room costs no torch: the command line reads the knobs from it. An editor imports the path it walks when
it is asked to walk.
"""
