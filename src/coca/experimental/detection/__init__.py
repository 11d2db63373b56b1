"""Object detection: FCOS on a simple feature pyramid (ViTDet) of a captioner's image encoder.

`coca finetune-detection RECIPE` trains a detector on boxes in COCO's format (source
`coco_instances`), `coca detect` finds and draws objects, and the task `detection` computes COCO's
average precision. The recipe `emoji_detection.yaml` in this folder is an example. Needs the extra
`detection`. See docs/plugins.md.
"""
