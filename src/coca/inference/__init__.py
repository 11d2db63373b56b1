"""Load a trained model: embed, caption, score, classify, answer."""
