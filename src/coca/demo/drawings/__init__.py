"""Named drawings of icon sets and clip art as image-text data for training."""
