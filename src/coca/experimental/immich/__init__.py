"""Routes of immich's machine learning service in `coca serve`, and its folder layout of models.

`/predict` and `/ping` answer its smart search with the model of the service, so `coca serve` takes
the place of immich's own service. `coca export --format immich` writes a model for that service.
`coca.load` reads folders in this layout, and `immich:immich-app/NAME` from the Hugging Face hub.
"""
