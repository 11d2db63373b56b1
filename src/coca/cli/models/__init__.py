"""Commands that use one model: embed, caption, classify, answer and export."""
