"""The report's experiments: series of reconstructions and textures, the paper, plots and contact sheets."""
