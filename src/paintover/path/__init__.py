"""The reverse path of a diffusion model: schedule, guidance, start points, the walk and its inversion, steering."""
