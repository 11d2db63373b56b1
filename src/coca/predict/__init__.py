"""Load a trained model by its name: embed, caption, score, classify, answer."""
