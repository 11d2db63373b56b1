"""From images, text and video files to tensors, and back."""
