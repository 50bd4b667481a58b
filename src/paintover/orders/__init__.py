"""Orders: the way of a request. Checked, prepared, walked together with others, put back into the picture, saved."""
