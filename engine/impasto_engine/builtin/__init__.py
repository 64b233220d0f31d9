"""The built-in VGG16: filters learned without labels from a dozen photographs, shipped as package data."""
