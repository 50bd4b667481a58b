"""Weights and words bent to a few pictures: what is learnt, how, and how it is put to use."""
