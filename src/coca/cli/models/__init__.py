"""Commands that use one model: embed, caption, classify, detect, answer, convert and export."""
