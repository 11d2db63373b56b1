"""Commands that run recipes: training, evaluation, the demo, and `coca config`."""
