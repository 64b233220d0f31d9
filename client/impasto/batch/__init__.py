"""Many photos in many styles, in one run that can be interrupted and started again: ``impasto batch``."""
