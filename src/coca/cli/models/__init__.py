"""Commands that use one model: embed, caption, classify, answer, convert and export."""
