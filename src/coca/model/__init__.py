"""The CoCa model: tensors in, tensors out."""
