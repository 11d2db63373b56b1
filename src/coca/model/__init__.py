"""The CoCa model, its losses, generation and weights: tensors in, tensors out."""
