"""Multimodal understanding: visual question answering (VQA), entailment and NLVR2."""
