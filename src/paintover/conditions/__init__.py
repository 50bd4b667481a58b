"""What the denoiser is told."""
