"""The CoCa architecture of OpenCLIP: model, config, and weights in both directions."""
