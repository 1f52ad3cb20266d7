"""What a frame costs on a target that is described as data."""
