"""Object detection on the image encoder of a CoCa."""
